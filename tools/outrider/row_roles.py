"""Roles, groups and times that JSON lines name for themselves: all rows or none, and only what is known. Reads no file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outrider_export.sources import RowNote
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.roles import ROLES


def roles_named(notes: Sequence[RowNote], file: Path) -> list[str]:
    """The role of each row; [] where none names one.

    Raises:
        OperatorConfigError: some rows name none, or one that is not known.
    """
    named = [note.role.strip().lower() for note in notes]
    if not any(named):
        return []
    if without := named.count(""):
        raise OperatorConfigError(
            f"{file}: {without} of {len(named)} rows have no role, and the others do",
            reason="invalid_row",
            fix="give every row a role, or none",
        )
    if unknown := sorted(set(named) - set(ROLES)):
        raise OperatorConfigError(
            f"{file}: {unknown[0][:60]!r} is no role, and its rows would be left out",
            reason="invalid_row",
            fix=f"write one of {', '.join(ROLES)}",
        )
    return named


def loose_times(notes: Sequence[RowNote], file: Path) -> NDArray[np.float64]:
    """The times of the rows without a group, in seconds: those that must be far apart.

    Raises:
        OperatorConfigError: some of these rows have no time, and others do.
    """
    loose = [note.time_s for note in notes if not note.grouped]
    times = [time for time in loose if time is not None]
    if times and len(times) < len(loose):
        raise OperatorConfigError(
            f"{file}: {len(loose) - len(times)} of {len(loose)} rows without a group have no time, and the others do",
            reason="invalid_row",
            fix="give every row its time or its group",
        )
    return np.asarray(times, np.float64)


def check_agree(groups: Sequence[str], named: Sequence[str], kept: Sequence[str]) -> None:
    """Refuses roles in a file that are others than the store's: a group that trained the model would certify it.

    Raises:
        RuleRefusalError: one differs.
    """
    differ = [(group, own, role) for group, own, role in zip(groups, named, kept, strict=True) if own != role]
    if differ:
        group, own, role = min(differ)
        raise RuleRefusalError(
            f"{len(differ)} row(s) name another role than the store gives their group, {group[:60]!r} is {role} there and {own} here",
            reason="roles_differ",
            fix="leave the roles out of the file, or certify without --config",
        )
