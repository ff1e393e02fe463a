"""The store's examples as tables to learn from, and labelled data into the store. Trains nothing."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from outrider_cloud.blobstore import BlobStore
from outrider_cloud.examples import NewExample, add_all, payload
from outrider_cloud.schema import examples
from outrider_cloud.store import Store
from outrider_export.data import UNLABELLED, Example, PartValue, Table
from outrider_wire.errors import RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.roles import Role, Shares, role_of
from outrider_wire.task import Task

_IMPORT_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Examples of one role, row by row."""

    table: Table
    """Inputs; the label is a person's, or `UNLABELLED`."""
    teacher: NDArray[np.float64]
    """(rows, labels) what the large model said; NaN where it was not asked."""
    escalated: NDArray[np.bool_]
    """Rows that the device sent because its rule refused them."""

    def take(self, rows: NDArray[np.int64]) -> "Shelf":
        """These rows."""
        return Shelf(table=self.table.take(rows), teacher=self.teacher[rows], escalated=self.escalated[rows])


class Library:
    """One task's examples in one store."""

    def __init__(self, *, task: Task, store: Store, blobs: BlobStore) -> None:
        self._task = task
        self._store = store
        self._blobs = blobs
        self._place = {label: place for place, label in enumerate(task.labels)}
        self._texts = {part.name for part in task.inputs if part.modality == "text"}

    def load(self, role: Role) -> Shelf:
        """All examples of that role, oldest first.

        Raises:
            RuleRefusalError: there are none.
        """
        rows = self._store.run(self._query(role))
        if not rows:
            raise RuleRefusalError(
                f"task {self._task.name} has no examples of the role {role!r}",
                reason="no_examples",
                fix=f"import labelled data: outrider data import FILE --task {self._task.name}",
            )
        known: dict[str, bytes] = {}
        none = [float("nan")] * len(self._task.labels)
        return Shelf(
            table=Table.from_examples(self._store.run(lambda connection: list(self._examples(connection, rows, known)))),
            teacher=np.array([row.teacher_probabilities or none for row in rows], np.float64),
            escalated=np.array([row.source == "escalation" for row in rows]),
        )

    def _query(self, role: Role) -> Any:
        wanted = sa.select(examples).where(examples.c.task == self._task.name, examples.c.role == role).order_by(examples.c.id)
        return lambda connection: connection.execute(wanted).all()

    def _examples(self, connection: sa.Connection, rows: Sequence[Any], known: dict[str, bytes]) -> Iterator[Example]:
        for row in rows:
            parts = {name: self._part(connection, name, sha256, known) for name, sha256 in row.parts.items()}
            yield Example(parts, self._place.get(row.label, UNLABELLED), row.group)

    def _part(self, connection: sa.Connection, name: str, sha256: str, known: dict[str, bytes]) -> PartValue:
        if sha256 not in known:
            data = payload(connection, sha256)
            known[sha256] = data if data is not None else self._blobs.read(sha256) or b""
        return known[sha256].decode() if name in self._texts else known[sha256]

    def add(self, table: Table, *, key: str, shares: Shares, now_ms: int) -> dict[str, int]:
        """Adds labelled rows; each group's role is decided here, once, by the keyed hash. How many rows each role was given.

        A row whose parts and group are there already is left as it is, so that an import can be repeated.
        """
        counts: dict[str, int] = {}
        for start in range(0, len(table), _IMPORT_CHUNK):
            chunk = [self._new(table, row, key, shares, now_ms) for row in range(start, min(start + _IMPORT_CHUNK, len(table)))]
            self._store.submit(lambda connection, chunk=chunk: add_all(connection, chunk)).result()
            for new in chunk:
                counts[new.role] = counts.get(new.role, 0) + 1
        return counts

    def _new(self, table: Table, row: int, key: str, shares: Shares, now_ms: int) -> NewExample:
        digests: dict[str, str] = {}
        small: dict[str, bytes] = {}
        for name, value in table.parts(row).items():
            data = value.encode() if isinstance(value, str) else value
            digests[name] = hashlib.sha256(data).hexdigest()
            if len(data) <= INLINE_BYTES:
                small[digests[name]] = data
            else:
                self._blobs.put(data)
        label = int(table.labels[row])
        identity = "".join(digests.values()) + table.groups[row]
        return NewExample(
            task=self._task.name,
            group=table.groups[row],
            role=role_of(table.groups[row], key=key, shares=shares),
            source="import",
            device="import",
            input=hashlib.sha256(identity.encode()).hexdigest(),
            why="import",
            parts=digests,
            label=None if label == UNLABELLED else self._task.labels[label],
            created_ms=now_ms,
            payloads=small,
        )
