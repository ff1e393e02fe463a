"""Tasks of one order change together: a pure rule over their records. Knows no files, clock or models.

All are fetched and tested, then all are swapped, then all are kept; when one fails, all go back. Nothing but the records is needed, so
that a start after a power cut at any moment comes to the same end.
"""

from collections.abc import Collection, Mapping

from outrider_edge.updates.events import Agreed, Kept, Withdrawn
from outrider_edge.updates.record import SETTLED, UNTRIED, Record

Due = Agreed | Kept | Withdrawn


def due(records: Mapping[str, Record], loaded: Collection[str]) -> dict[str, Due]:
    """By task, what the other tasks of its order bring about now.

    Args:
        records: of every task of this device.
        loaded: the tasks whose offered release is in memory and warm.
    """
    found = {task: _due(task, records, loaded) for task in records}
    return {task: event for task, event in found.items() if event is not None}


def under_way_with(task: str, records: Mapping[str, Record]) -> list[str]:
    """The task, and the others of its order."""
    return [task, *(other for other in records[task].together if other in records and other != task)]


def in_use(task: str, records: Mapping[str, Record]) -> bool:
    """Whether another task of its order runs its new release already: then this one's is swapped in before anything answers."""
    record = records[task]
    others = [records[other] for other in record.together if other in records and other != task]
    return record.state == "armed" and any(
        _committed(record, other) or (other.order == record.order and other.state == "probation") for other in others
    )


def _due(task: str, records: Mapping[str, Record], loaded: Collection[str]) -> Due | None:
    record = records[task]
    if record.state in SETTLED or record.state == "rollback":
        return None
    others = {name: records.get(name) for name in record.together if name != task}
    for name, other in others.items():
        if (problem := _problem(name, record, other)) is not None:
            return problem
    here = [(name, other) for name, other in others.items() if other is not None]
    if record.state == "armed" and task in loaded and all(_ready(record, each, name in loaded) for name, each in here):
        return Agreed()
    if record.state == "probation" and record.healthy and all(_well(record, each) for _, each in here):
        return Kept()
    return None


def _problem(name: str, record: Record, other: Record | None) -> Withdrawn | None:
    """Why the two cannot change together any more; None while they can."""
    who = f"task {name}, which changes together with it,"
    if other is None:
        return Withdrawn(f"{who} is not on this device", "companion", "companion")
    if _committed(record, other) or other.order < record.order:
        return None
    if other.order > record.order and record.state in UNTRIED:
        return Withdrawn(f"{who} was given another order", "replaced", "replaced")
    if other.state == "rollback":
        return Withdrawn(f"{who} is rolled back: {other.reason}", "companion", "companion")
    if other.ended >= record.order:
        return Withdrawn(f"{who} did not change: {other.reason or other.outcome}", "companion", "companion")
    return None


def _committed(record: Record, other: Record) -> bool:
    return other.ended == record.order and other.outcome == "committed"


def _ready(record: Record, other: Record, loaded: bool) -> bool:
    """Armed and in memory, or further."""
    under_way = other.order == record.order and (other.state == "probation" or (other.state == "armed" and loaded))
    return under_way or _committed(record, other)


def _well(record: Record, other: Record) -> bool:
    under_way = other.order == record.order and other.state == "probation" and other.healthy
    return under_way or _committed(record, other)
