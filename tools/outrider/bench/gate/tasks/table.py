"""The table of tasks by name. A task's module is imported when the task is asked for."""

import importlib
from collections.abc import Mapping

from outrider.bench.gate.tasks.base import GateTask
from outrider_wire.errors import OperatorConfigError

TASKS: Mapping[str, str] = {
    "easy-vqa": "easy_vqa",
    "mnist1d": "mnist1d",
    "fashion": "fashion",
    "fashion-weak": "fashion",
    "text": "text",
}
"""Name → module in this package."""


def find_task(name: str) -> GateTask:
    """The task of that name.

    Raises:
        OperatorConfigError: there is none.
    """
    if name not in TASKS:
        raise OperatorConfigError(
            f"there is no task {name!r} to measure on", reason="unknown_task", fix=f"choose {', '.join(TASKS)}"
        )
    module = importlib.import_module(f"outrider.bench.gate.tasks.{TASKS[name]}")
    found: Mapping[str, GateTask] = module.TASKS
    return found[name]
