"""The examples that learning reads: inputs with what both models said of them. Functions of a connection.

An example's role is given to it once, when it is added; parts are named by SHA-256 and live in `payloads` or, where they are
large, in the blob store.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store.portable import insert
from outrider_cloud.store.schema import examples, payloads
from outrider_wire.roles import Role

_ADD = insert(examples).on_conflict_do_nothing()
_ADD_PAYLOADS = insert(payloads).on_conflict_do_nothing()
_PAYLOAD = sa.select(payloads.c.data).where(payloads.c.sha256 == sa.bindparam("of"))


class NewExample(Struct, kw_only=True, frozen=True):
    """One row to add; fields as in `outrider_cloud.store.schema.examples`."""

    task: str
    group: str
    role: Role
    source: Literal["escalation", "audit", "import"]
    parts: dict[str, str]
    created_ms: int
    device: str | None = None
    input: str | None = None
    why: str = ""
    label: str | None = None
    teacher_label: str | None = None
    teacher_probabilities: list[float] | None = None
    teacher_model: str | None = None
    small_label: str | None = None
    small_probabilities: list[float] | None = None
    small_model: str | None = None
    audit: float = 0.0
    payloads: dict[str, bytes] = {}
    """SHA-256 → bytes of the parts that go into the database."""


def add(connection: sa.Connection, new: NewExample) -> None:
    """Adds one example and its payloads; one that is there already stays as it is."""
    add_all(connection, [new])


def add_all(connection: sa.Connection, new: Sequence[NewExample]) -> None:
    """Adds many in a few statements."""
    data = {sha256: payload for one in new for sha256, payload in one.payloads.items()}
    if data:
        rows = [{"sha256": sha256, "data": payload} for sha256, payload in data.items()]
        connection.execute(_ADD_PAYLOADS, rows)
    if new:
        fields = [field for field in NewExample.__struct_fields__ if field != "payloads"]
        values = [{field: getattr(one, field) for field in fields} for one in new]
        connection.execute(_ADD, values)


def payload(connection: sa.Connection, sha256: str) -> bytes | None:
    """The bytes of a part that lives in the database."""
    data: bytes | None = connection.execute(_PAYLOAD, {"of": sha256}).scalar_one_or_none()
    return data


def stats(connection: sa.Connection, task: str) -> Mapping[str, Any]:
    """Counts of a task's examples: in all, by role and source, how many carry a label, and the teacher's answers by label."""
    here = examples.c.task == task

    def by(column: sa.Column[Any]) -> dict[str, int]:
        rows = connection.execute(sa.select(column, sa.func.count()).where(here, column.is_not(None)).group_by(column))
        return {str(value): n for value, n in rows}

    total, groups, labelled = connection.execute(
        sa.select(sa.func.count(), sa.func.count(sa.distinct(examples.c.group)), sa.func.count(examples.c.label)).where(
            here
        )
    ).one()
    return {
        "task": task,
        "examples": total,
        "groups": groups,
        "labelled": labelled,
        "roles": by(examples.c.role),
        "sources": by(examples.c.source),
        "teacher_labels": by(examples.c.teacher_label),
    }
