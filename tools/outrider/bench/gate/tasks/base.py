"""What a task of the benchmark is, and how its rows get their roles. Holds no task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outrider.bench.gate.rows import Ints, Measured
from outrider.progress import Tell
from outrider_wire.errors import OperatorSetupError
from outrider_wire.roles import ROLES, Role, Shares, role_of

Measure = Callable[[int, Path | None, Path, Tell], Measured]
"""(seed, folder of the data or None, folder to keep things in, tell) → what both models said."""


@dataclass(frozen=True, kw_only=True)
class GateTask:
    """One task: what may be promised on it, and how its rows come about."""

    name: str
    about: str
    """Data, device, models, in a sentence."""
    risk: float
    """r*"""
    delta: float
    measure: Measure
    made_by: Sequence[str]
    """The modules whose text, together, is the recipe: when one changes, nothing kept is used."""
    needs: Sequence[str] = ()
    """Distributions whose versions belong to the recipe."""
    data: str = ""
    """Folder name of data that no Python package carries; '' when one does."""
    fetch: Callable[[Path], None] | None = None
    """Gets that data with the machine's own package tools."""
    how_to_get: str = ""
    """One sentence on how to get it."""


def need_data(task: GateTask, folder: Path | None) -> Path:
    """The folder of the task's data.

    Raises:
        OperatorSetupError: it is not there; the sentence says how to get it.
    """
    if folder is None or not folder.is_dir():
        where = f" at {folder}" if folder else ""
        raise OperatorSetupError(
            f"the data of task {task.name} are not here{where}", reason="no_data", fix=task.how_to_get
        )
    return folder


def dealt(groups: Sequence[str], *, key: str, shares: Shares) -> dict[Role, Ints]:
    """Row numbers by role, by the keyed hash that the cloud's store deals by: a group is never in two roles."""
    roles = np.asarray([role_of(group, key=key, shares=shares) for group in groups])
    return {role: np.flatnonzero(roles == role) for role in ROLES}


def majority(known: Ints, asked: Ints) -> float:
    """Accuracy of always giving the commonest of the known labels."""
    return float((asked == np.bincount(known).argmax()).mean())


def names(prefix: str, numbers: NDArray[np.int64] | range) -> list[str]:
    """A name for each row: its own group."""
    return [f"{prefix}/{number}" for number in numbers]
