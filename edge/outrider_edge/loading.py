"""Every task of a device with its model, ready to answer. Blocks; knows no network."""

import logging
from dataclasses import dataclass
from pathlib import Path

from outrider_edge.config import EdgeConfig, read_task
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.journey.subtasks import SubtaskModels, load_subtasks
from outrider_edge.journey.way_out import check_way_out
from outrider_edge.memory.memory import check_embedding
from outrider_edge.outbox.clock import run_clock
from outrider_edge.running import load_terms, loader, self_test
from outrider_edge.updates.jobs import SelfTest
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import Load, SlotsFound, settle_together, start_slots
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.resident import Residents
from outrider_wire.errors import OperatorConfigError
from outrider_wire.images import Decode

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One task, ready to answer."""

    runtime: TaskRuntime
    subtasks: SubtaskModels
    start: SlotsFound
    load: Load
    selftest: SelfTest
    residents: Residents
    """The bound of memory that all models of the agent share."""


def load_tasks(config: EdgeConfig, decode: Decode, cache: CacheFolder, ledger: LedgerFile) -> dict[str, Loaded]:
    """All of a configuration, by name, loaded and timed.

    Raises:
        OperatorConfigError: a task is configured twice, or does not fit its bundle.
        BundleError: no model of a task can be used.
    """
    loaded: dict[str, Loaded] = {}
    terms = load_terms(config.runtime, cache, decode)
    folders: dict[str, SlotFolder] = {}
    for settings in config.tasks:
        task = read_task(settings)
        if task.name in folders:
            raise OperatorConfigError(
                f"task {task.name!r} is configured twice", reason="duplicate_task", fix="name each task file once"
            )
        folders[task.name] = SlotFolder(folder=config.folder / "slots" / task.name, task=task)
    settle_together(folders)
    boot = run_clock().boot_id
    for settings, folder in zip(config.tasks, folders.values(), strict=True):
        task = folder.task
        load = loader(task, terms)
        kept = ledger.task(task.name) if task.name in ledger.now.tasks else None
        start = start_slots(folder=folder, factory=Path(settings.bundle), load=load, kept=kept, boot=boot)
        check_embedding(task, start.model.manifest)
        check_way_out(task, start.model.manifest)
        runtime = TaskRuntime(task=task, model=start.model, max_batch=config.runtime.max_batch)
        model_ms = runtime.warm()
        log.info(
            "task.ready", extra={"task": task.name, "model": start.model.manifest.version, "ms": round(model_ms, 3)}
        )
        subtasks = load_subtasks(settings.subtasks, task, load)
        loaded[task.name] = Loaded(
            runtime=runtime,
            subtasks=subtasks,
            start=start.without_model(),
            load=load,
            selftest=self_test(terms),
            residents=terms.residents,
        )
    return loaded
