"""The long work of an update, each piece ending in the event that it brought about. Keeps no record and writes no state."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from outrider_edge.memory.memory import lacks_embedding
from outrider_edge.ports import RuntimePort
from outrider_edge.updates.fetching import ReleaseSource, fetch_release
from outrider_edge.updates.rules import (
    OTHER,
    Event,
    Fetched,
    Healthy,
    Loaded,
    Passed,
    Record,
    RolledBack,
    Slot,
    Tripped,
    Unfit,
)
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import Load
from outrider_engine.golden import check_golden
from outrider_engine.model import Model
from outrider_engine.selftest import SelfTestReport, run_selftest
from outrider_wire.errors import BundleError, OutriderError

log = logging.getLogger(__name__)

SelfTest = Callable[[Path], SelfTestReport]
Job = Literal["fetch", "test", "load", "watch", "restore"]
RETRY_MAX_S = 300.0
POLL_S = 0.05
DAMAGED_TRIES = 3
"""A release that arrives with another digest this often is damaged where it comes from."""
_SPREAD = random.Random()  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True, kw_only=True)
class UpdateTerms:
    """How patient an update is."""

    probation_answers: int = 20
    """So many answers of the new model, without a failure of it, end its probation."""
    probation_s: float = 60.0
    """So does this much run time."""
    retry_s: float = 1.0
    """Before the second attempt to fetch; it doubles, up to `RETRY_MAX_S`."""


class UpdateJobs:
    """The jobs of one task.

    Args:
        folder: the task's slots.
        runtime: the task's model in use.
        source: where releases come from.
        load: how a bundle becomes a model here, warm.
        say: told in a sentence why a job cannot go on now.
    """

    def __init__(
        self,
        *,
        folder: SlotFolder,
        runtime: RuntimePort,
        source: ReleaseSource,
        load: Load,
        terms: UpdateTerms,
        say: Callable[[str], None],
        selftest: SelfTest = run_selftest,
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._source = source
        self._load = load
        self._terms = terms
        self._say = say
        self._selftest = selftest
        self._loaded: Model | None = None
        self._before: Model | None = None

    def begin(self, job: Job, record: Record) -> Coroutine[Any, Any, Event]:
        """The job on what the record says."""
        match job:
            case "fetch":
                return self._fetch(record)
            case "test":
                return self._test(record)
            case "load":
                return self._load_offered(record)
            case "watch":
                return self._watch()
            case "restore":
                return self._restore(record)
            case _ as never:
                assert_never(never)

    def swap(self) -> None:
        """The loaded model answers from now on; the one before stays at hand until `forget`."""
        if self._loaded is not None:
            self._before = self._runtime.plain
            self._runtime.swap(self._loaded)
            self._loaded = None

    def forget(self) -> None:
        """Nothing will be rolled back any more."""
        self._before = None

    async def _fetch(self, record: Record) -> Event:
        wait_s, damaged = self._terms.retry_s, 0
        while True:
            try:
                bundle = await fetch_release(
                    release=record.offered,
                    size=record.size,
                    slot=OTHER[record.slot],
                    folder=self._folder,
                    source=self._source,
                )
                problem = lacks_embedding(self._folder.task, bundle.manifest)
                return Unfit(problem) if problem else Fetched(bundle.manifest.version)
            except BundleError as error:
                damaged += error.reason == "digest_mismatch"
                if error.reason != "digest_mismatch" or damaged >= DAMAGED_TRIES:
                    return Unfit(error.what)
                self._say(error.what)
            except (OutriderError, OSError) as error:
                self._say(error.what if isinstance(error, OutriderError) else str(error))
            await asyncio.sleep(wait_s * _SPREAD.uniform(0.5, 1.0))
            wait_s = min(RETRY_MAX_S, 2 * wait_s)

    async def _test(self, record: Record) -> Event:
        found = await asyncio.to_thread(self._selftest, self._folder.path(OTHER[record.slot]))
        return Passed() if found.ok else Unfit(f"self-test: {found.detail or found.reason}")

    async def _load_offered(self, record: Record) -> Event:
        try:
            self._loaded, faults = await asyncio.to_thread(self._loaded_from, OTHER[record.slot])
        except BundleError as error:
            return Unfit(error.what)
        return Unfit(faults[0]) if faults else Loaded()

    async def _watch(self) -> Event:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._terms.probation_s
        while not self._runtime.failed:
            if self._runtime.served >= self._terms.probation_answers or loop.time() >= ends_at:
                return Healthy()
            await asyncio.sleep(POLL_S)
        return Tripped("the model failed on live input")

    async def _restore(self, record: Record) -> Event:
        if self._before is not None and self._before.digest == record.running:
            model = self._before
        else:
            model, _ = await asyncio.to_thread(self._loaded_from, record.slot)
        self._runtime.swap(model)
        return RolledBack()

    def _loaded_from(self, slot: Slot) -> tuple[Model, list[str]]:
        model = self._load(self._folder.open(slot))
        return model, check_golden(model)
