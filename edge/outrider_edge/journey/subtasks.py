"""Answers to a task's sub-tasks, by small models of their own: what an escalation tells the large model. Decides nothing.

They run only for what is sent, in one thread, so that an input that stays here costs nothing more. A sub-task whose model fails
on an input is left out: the escalation goes without that fact.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from outrider_edge.journey.pipeline import Parts
from outrider_engine.bundle import Bundle, open_bundle
from outrider_engine.model import Model
from outrider_wire.errors import BundleMismatchError, OperatorConfigError, OutriderError
from outrider_wire.messages import Fact
from outrider_wire.task import Task

log = logging.getLogger(__name__)


class SubtaskModels:
    """One loaded model a sub-task that this device answers; none is a device that tells nothing."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="subtasks") if models else None

    async def facts(self, parts: Parts) -> list[Fact]:
        """What this device knows of an input beside its own answer, in the order of the sub-tasks."""
        if self._thread is None:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._facts, parts)

    def close(self) -> None:
        """Waits for the input in hand."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _facts(self, parts: Parts) -> list[Fact]:
        facts = []
        for name, model in self._models.items():
            try:
                [inference] = model.infer([model.prepare(parts)])
            except OutriderError as error:
                log.warning("subtask.failed", extra={"subtask": name, "reason": error.reason})
                continue
            best = int(inference.probabilities.argmax())
            facts.append(Fact(name=name, label=model.labels[best], confidence=float(inference.probabilities[best])))
        return facts


def load_subtasks(folders: Mapping[str, str], task: Task, load: Callable[[Bundle], Model]) -> SubtaskModels:
    """The models in those folders, by sub-task. Blocks.

    Raises:
        OperatorConfigError: the task has no such sub-task.
        BundleError: a bundle is damaged, unsafe, or answers with other labels than its sub-task.
    """
    labels = {each.name: each.labels for each in task.subtasks}
    if unknown := sorted(folders.keys() - labels.keys()):
        raise OperatorConfigError(
            f"task {task.name!r} has no sub-task {unknown[0]!r}",
            reason="unknown_subtask",
            fix=f"name one of: {', '.join(labels)}" if labels else "add [[subtasks]] to the task file",
        )
    models: dict[str, Model] = {}
    for name in (each for each in labels if each in folders):
        model = load(open_bundle(Path(folders[name])))
        if list(model.labels) != labels[name]:
            raise BundleMismatchError(
                f"the bundle of sub-task {name!r} has other labels than the task file says",
                reason="wrong_labels",
                fix="build it again with the sub-task's labels, in their order",
            )
        models[name] = model
    return SubtaskModels(models)
