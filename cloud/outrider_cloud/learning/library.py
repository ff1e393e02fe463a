"""The store's examples as tables to learn from, and labelled data into the store. Trains nothing.

What a device keeps never comes here, except as an audit or as imported data; so an escalation is no sample of the stream, and
only imported rows with a person's label tune, judge or certify.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.examples import NewExample, add_all, payload
from outrider_cloud.store.schema import examples
from outrider_cloud.store.store import Store
from outrider_export.data import UNLABELLED, Example, PartValue, Progress, Table
from outrider_wire.errors import CallerInputError, RuleRefusalError
from outrider_wire.images import decode_picture
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.roles import ROLES, Role, Shares, role_of
from outrider_wire.task import InputPart, Task

_IMPORT_CHUNK = 500
_HERE = examples.c


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Examples of one role, row by row."""

    table: Table
    """Inputs; the label is a person's, or `UNLABELLED`."""
    teacher: NDArray[np.float64]
    """(rows, labels) what the large model said; NaN where it was not asked."""
    teacher_models: Sequence[str]
    """Name of the large model that said it; '' where none was asked."""
    escalated: NDArray[np.bool_]
    """Rows that the device sent because its rule refused them."""
    small_models: Sequence[str]
    """Digest of the bundle that answered on the device; '' for imported rows."""

    def take(self, rows: NDArray[np.int64]) -> "Shelf":
        """These rows."""
        return Shelf(
            table=self.table.take(rows),
            teacher=self.teacher[rows],
            teacher_models=[self.teacher_models[row] for row in rows],
            escalated=self.escalated[rows],
            small_models=[self.small_models[row] for row in rows],
        )


@dataclass(frozen=True, kw_only=True)
class Added:
    """What an import came to, by role."""

    new: dict[Role, int]
    known: dict[Role, int]
    """Rows that were there already, and stayed as they were."""


class Library:
    """One task's examples in one store."""

    def __init__(self, *, task: Task, store: Store, blobs: BlobStore) -> None:
        self.task = task
        self.store = store
        self.blobs = blobs
        self._place = {label: place for place, label in enumerate(task.labels)}
        self._texts = {part.name for part in task.inputs if part.modality == "text"}

    def load(self, role: Role) -> Shelf:
        """All examples of that role, oldest first.

        Raises:
            RuleRefusalError: there are none, or a part of one is lost.
        """
        return self._shelf(role, _HERE.role == role)

    def labelled(self, role: Role) -> Table:
        """The imported rows of that role that carry a label: what may tune, judge and certify.

        Raises:
            RuleRefusalError: there are none, or a part of one is lost.
        """
        wanted = sa.and_(_HERE.role == role, _HERE.source == "import", _HERE.label.in_(self.task.labels))
        return self._shelf(role, wanted).table

    def certifiable_groups(self) -> list[str]:
        """The group of every imported, labelled row of the certification role."""
        wanted = (_HERE.task == self.task.name, _HERE.role == "certification", _HERE.source == "import")
        named = sa.select(_HERE.group).where(*wanted, _HERE.label.is_not(None))
        groups: list[str] = self.store.run(lambda connection: list(connection.execute(named).scalars()))
        return groups

    def _shelf(self, role: Role, wanted: sa.ColumnElement[bool]) -> Shelf:
        rows = self.store.run(self._query(wanted))
        if not rows:
            raise RuleRefusalError(
                f"task {self.task.name} has no examples of the role {role!r} to use",
                reason="no_examples",
                fix=f"import labelled data: outrider data import FILE --task {self.task.name}",
            )
        known: dict[str, bytes] = {}
        none = [float("nan")] * len(self.task.labels)
        table = self.store.run(lambda connection: Table.from_examples(self._examples(connection, rows, known)))
        return Shelf(
            table=table,
            teacher=np.array([row.teacher_probabilities or none for row in rows], np.float64),
            teacher_models=[row.teacher_model or "" for row in rows],
            escalated=np.array([row.source == "escalation" for row in rows]),
            small_models=[row.small_model or "" for row in rows],
        )

    def _query(self, wanted: sa.ColumnElement[bool]) -> Any:
        unanswered = sa.and_(_HERE.source == "audit", _HERE.teacher_label.is_(None))
        query = sa.select(examples).where(_HERE.task == self.task.name, wanted, sa.not_(unanswered)).order_by(_HERE.id)
        return lambda connection: connection.execute(query).all()

    def _examples(self, connection: sa.Connection, rows: Sequence[Any], known: dict[str, bytes]) -> Iterator[Example]:
        for row in rows:
            parts = {name: self._part(connection, name, sha256, known) for name, sha256 in row.parts.items()}
            yield Example(parts, self._place.get(row.label, UNLABELLED), row.group)

    def _part(self, connection: sa.Connection, name: str, sha256: str, known: dict[str, bytes]) -> PartValue:
        if sha256 not in known:
            data = payload(connection, sha256) or self.blobs.read(sha256)
            if data is None:
                raise RuleRefusalError(
                    f"part {name!r} of an example is lost: blob {sha256[:12]}… is not in the store",
                    reason="payload_lost",
                    fix="restore the blobs folder of data_dir from a copy",
                )
            known[sha256] = data
        return known[sha256].decode() if name in self._texts else known[sha256]

    def add(self, table: Table, *, key: str, shares: Shares, now_ms: int, progress: Progress | None = None) -> Added:
        """Adds rows; each group's role is decided here, once, by the keyed hash.

        A row whose parts and group are there already is left as it is, so that an import can be repeated.

        Raises:
            CallerInputError: a part that a device would refuse; nothing is added then.
        """
        _check_parts(table, self.task.inputs)
        before, seen = self._imported(), dict.fromkeys(ROLES, 0)
        for start in range(0, len(table), _IMPORT_CHUNK):
            end = min(start + _IMPORT_CHUNK, len(table))
            chunk = [self._new(table, row, key, shares, now_ms) for row in range(start, end)]
            self.store.submit(partial(add_all, new=chunk)).result()
            for new in chunk:
                seen[new.role] += 1
            if progress is not None:
                progress("importing", end / len(table))
        after = self._imported()
        fresh = {role: after.get(role, 0) - before.get(role, 0) for role in ROLES}
        return Added(new=fresh, known={role: seen[role] - fresh[role] for role in ROLES})

    def _imported(self) -> dict[str, int]:
        counted = (
            sa.select(_HERE.role, sa.func.count())
            .where(_HERE.task == self.task.name, _HERE.source == "import")
            .group_by(_HERE.role)
        )
        return {str(role): n for role, n in self.store.run(lambda connection: connection.execute(counted).all())}

    def _new(self, table: Table, row: int, key: str, shares: Shares, now_ms: int) -> NewExample:
        digests: dict[str, str] = {}
        small: dict[str, bytes] = {}
        for name, value in table.parts(row).items():
            data = value.encode() if isinstance(value, str) else value
            digests[name] = hashlib.sha256(data).hexdigest()
            if len(data) <= INLINE_BYTES:
                small[digests[name]] = data
            else:
                self.blobs.put(data)
        label = int(table.labels[row])
        identity = "\0".join([self.task.name, table.groups[row], *(digests[name] for name in sorted(digests))])
        return NewExample(
            task=self.task.name,
            group=table.groups[row],
            role=role_of(table.groups[row], key=key, shares=shares),
            source="import",
            device="import",
            input=hashlib.sha256(identity.encode()).hexdigest(),
            why="import",
            parts=digests,
            label=None if label == UNLABELLED else self.task.labels[label],
            created_ms=now_ms,
            payloads=small,
        )


def _check_parts(table: Table, inputs: Sequence[InputPart]) -> None:
    for part in inputs:
        for place, value in enumerate(table.values[part.name]):
            try:
                _check_part(value, part)
            except CallerInputError as error:
                row = int(np.argmax(table.index[part.name] == place))
                raise CallerInputError(
                    f"{table.groups[row]}: {error.what}", reason=error.reason, fix=error.fix, part=part.name
                ) from error


def _check_part(value: PartValue, part: InputPart) -> None:
    size = len(value.encode()) if isinstance(value, str) else len(value)
    if size > part.max_bytes:
        raise CallerInputError(
            f"part {part.name!r} has {size} bytes, more than the {part.max_bytes} of its task",
            reason="part_too_large",
            fix="import a smaller one, or raise the task's max_bytes",
            part=part.name,
        )
    if part.modality == "image":
        decode_picture(value, part=part.name, mode="RGB", max_pixels=part.max_pixels)
