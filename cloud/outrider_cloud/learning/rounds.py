"""The table of learning rounds: what was begun, and what came of it. Functions of a connection."""

from typing import Any, Literal

import sqlalchemy as sa

from outrider_cloud.store.schema import rounds

Ended = Literal["promoted", "refused", "failed"]


def start(connection: sa.Connection, *, task: str, deployed: str, now_ms: int) -> int:
    """Writes a running round down; its number."""
    row = {"task": task, "state": "running", "deployed": deployed, "started_ms": now_ms}
    number: int = connection.execute(sa.insert(rounds).values(row).returning(rounds.c.id)).scalar_one()
    return number


def newest_promoted(connection: sa.Connection, *, task: str) -> tuple[int, str] | None:
    """Number and candidate of the task's newest promoted round; None: none was."""
    promoted = sa.select(rounds.c.id, rounds.c.candidate).where(rounds.c.task == task, rounds.c.state == "promoted")
    row = connection.execute(promoted.order_by(rounds.c.id.desc()).limit(1)).first()
    return None if row is None else (row.id, row.candidate)


def finish(
    connection: sa.Connection, *, number: int, state: Ended, candidate: str | None, report: Any, now_ms: int
) -> None:
    """Writes down how a round ended."""
    connection.execute(
        sa.update(rounds)
        .where(rounds.c.id == number)
        .values(state=state, candidate=candidate, report=report, finished_ms=now_ms)
    )
