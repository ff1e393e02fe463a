"""Rows that are the same input, part for part, whatever their groups are called. Knows no model and no file."""

from collections.abc import Sequence

from outrider_export.data import PartValue, Table
from outrider_wire.errors import RuleRefusalError


def check_copies(tuning: Table, certification: Table) -> None:
    """Refuses inputs to certify on that a choice was made on.

    Raises:
        RuleRefusalError: rows with the same parts are in both tables.
    """
    contents = _contents([tuning, certification])
    shared = set(contents[: len(tuning)]) & set(contents[len(tuning) :])
    if shared:
        raise RuleRefusalError(
            f"{len(shared)} input(s) are among both the tuning and the certification rows, part for part",
            reason="roles_overlap",
            fix="remove the copies, or give them one group",
        )


def without_copies(table: Table, *others: Table) -> Table:
    """The rows of a table of which none of ``others`` holds a copy; it may be left with none."""
    contents = _contents([table, *others])
    held = set(contents[len(table) :])
    return table.take([row for row, content in enumerate(contents[: len(table)]) if content not in held])


def check_counted_once(table: Table) -> None:
    """Refuses an input that counts as several independent ones.

    Raises:
        RuleRefusalError: rows with the same parts have different groups.
    """
    seen: dict[tuple[int, ...], str] = {}
    contents = zip(_contents([table]), table.groups, strict=True)
    twice = {content for content, group in contents if seen.setdefault(content, group) != group}
    if twice:
        raise RuleRefusalError(
            f"{len(twice)} input(s) stand under several groups, part for part, and would count as independent; "
            f"the first is of group {min(seen[content] for content in twice)[:60]!r}",
            reason="copies_counted",
            fix="remove the copies, or give them one group",
        )


def _contents(tables: Sequence[Table]) -> list[tuple[int, ...]]:
    """What each row of these tables is made of, by the parts that all have: equal numbers are equal values."""
    parts = sorted(set.intersection(*(set(table.values) for table in tables)))
    columns = [_column(tables, part) for part in parts]
    return list(zip(*columns, strict=True))


def _column(tables: Sequence[Table], part: str) -> list[int]:
    """The value of each row as a number; a value that several rows share is looked at once."""
    known: dict[PartValue, int] = {}
    found: list[int] = []
    for table in tables:
        values, places = table.values[part], table.index[part].tolist()
        number = {place: known.setdefault(values[place], len(known)) for place in set(places)}
        found += [number[place] for place in places]
    return found
