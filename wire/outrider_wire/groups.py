"""Which rows of a group may certify: rows of one group are not independent, groups are. Knows no scores and no labels.

How many rows of a group certify is chosen by the sizes of the groups alone, so that it is fixed in advance.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outrider_wire.roles import fraction_of

GROUP_ROWS = 4
"""Rows of one group that certify, at most. Measured: of 3, 4, 6, 8 and 12, four to six certify most."""


def rows_a_group(groups: Sequence[str]) -> int:
    """How many rows of a group certify: `GROUP_ROWS` where groups have that many on average, else one.

    It looks at the groups' sizes alone, so that it chooses the method in advance.
    """
    count = len(set(groups))
    return GROUP_ROWS if count and sum(_sizes(groups, GROUP_ROWS)) >= 0.6 * GROUP_ROWS * count else 1


def _sizes(groups: Sequence[str], most: int) -> list[int]:
    return [min(size, most) for size in Counter(groups).values()]


def usable_rows(groups: Sequence[str]) -> tuple[int, int]:
    """How many of the rows of these groups (one name a row) certify, and at most how many of one group."""
    most = rows_a_group(groups)
    return sum(_sizes(groups, most)), most


def one_per_group(groups: Sequence[str], key: str) -> NDArray[np.int64]:
    """Indices, rising, of one row of each group, drawn by a keyed hash: rows of one group are not independent."""
    return some_per_group(groups, key, 1)


def some_per_group(groups: Sequence[str], key: str, most: int) -> NDArray[np.int64]:
    """Indices, rising, of at most ``most`` rows of each group, drawn by a keyed hash."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    drawn: list[int] = []
    for group, rows in members.items():
        for place in range(min(most, len(rows))):
            salt = "one-per-group" if place == 0 else f"one-per-group-{place}"
            drawn.append(rows.pop(int(fraction_of(group, key, salt) * len(rows))))
    return np.sort(np.asarray(drawn, np.int64))
