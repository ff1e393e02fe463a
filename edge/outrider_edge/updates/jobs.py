"""The long work of an update, each piece ending in the event that it brought about. Keeps no record and writes no state."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, assert_never

from msgspec.structs import replace

from outrider_edge.memory.memory import lacks_embedding
from outrider_edge.ports import RuntimePort
from outrider_edge.updates.events import (
    Event,
    FellBack,
    Fetched,
    Loaded,
    Passed,
    Permitted,
    RolledBack,
    Unfit,
    Withdrawn,
)
from outrider_edge.updates.fetching import ReleaseSource, fetch_release
from outrider_edge.updates.polite import polite
from outrider_edge.updates.probation import ProbationTerms, verdict
from outrider_edge.updates.record import OTHER, Record, Slot
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import Load
from outrider_edge.updates.waiting import Hold
from outrider_edge.updates.watching import Before, Senses, Watching
from outrider_engine.golden import check_golden
from outrider_engine.model import Model
from outrider_engine.selftest import SelfTestReport, run_selftest
from outrider_wire.errors import BundleError, OutriderError

log = logging.getLogger(__name__)

SelfTest = Callable[[Path], SelfTestReport]
Job = Literal["ask", "fetch", "test", "load", "watch", "restore"]
RETRY_MAX_S = 300.0
DAMAGED_TRIES = 3
"""A release that arrives with another digest this often is damaged where it comes from."""
NOT_ITS_FAULT = ("no_child", "interrupted")
"""Ends of a self-test that say nothing of the release: it is tested again."""
DOUBTFUL = ("timeout", "out_of_memory")
"""Ends that a busy device may bring about too: the second one counts."""
_SPREAD = random.Random()  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True, kw_only=True)
class UpdateTerms:
    """How patient an update is, and how strict."""

    probation_answers: int = 200
    """So many answers of the new model, without a failure of it, end its probation; with time, fewer do."""
    probation_s: float = 86_400.0
    """No probation has more run time."""
    probation_least_s: float = 1800.0
    """None has less, unless `probation_s` is."""
    retry_s: float = 1.0
    """Before the second attempt to fetch; it doubles, up to `RETRY_MAX_S`."""
    ask_s: float = 1.0
    """How often it is asked whether the next step may begin."""
    tick_s: float = 60.0
    """How often run time is counted."""
    look_s: float = 0.05
    """How often it is looked at how a model on probation fares."""
    selftest_ms: float = 0.0
    """The most milliseconds that one inference may take in the self-test; 0: any."""
    watch: ProbationTerms = field(default_factory=ProbationTerms)
    """What else a new model must keep to."""

    @property
    def probation(self) -> ProbationTerms:
        """All of it."""
        return replace(
            self.watch, answers=self.probation_answers, most_s=self.probation_s, least_s=self.probation_least_s
        )


class UpdateJobs:
    """The jobs of one task.

    Args:
        folder: the task's slots.
        runtime: the task's model in use.
        source: where releases come from.
        load: how a bundle becomes a model here, warm.
        say: told in a sentence, and as a reason code, why a job cannot go on now.
        hold: why the next step may not begin now.
        senses: how the device fares.
        factory: the configured bundle: what is left when a slot cannot be used.
    """

    def __init__(
        self,
        *,
        folder: SlotFolder,
        runtime: RuntimePort,
        source: Callable[[], ReleaseSource],
        load: Load,
        terms: UpdateTerms,
        say: Callable[[str, str], None],
        hold: Callable[[], Hold | None],
        senses: Senses,
        factory: Path,
        selftest: SelfTest = run_selftest,
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._source = source
        self._load = load
        self._terms = terms
        self._say = say
        self._hold = hold
        self._senses = senses
        self._factory = factory
        self._selftest = selftest
        self._loaded: Model | None = None
        self._before: Model | None = None
        self._was = Before()

    def begin(self, job: Job, record: Record) -> Coroutine[Any, Any, Event]:
        """The job on what the record says."""
        match job:
            case "ask":
                return self._ask(record)
            case "fetch":
                return self._fetch(record)
            case "test":
                return self._test(record)
            case "load":
                return self._load_offered(record)
            case "watch":
                return self._watch(record)
            case "restore":
                return self._restore(record)
            case _ as never:
                assert_never(never)

    def swap(self) -> None:
        """The loaded model answers from now on; the one before stays at hand until `forget`."""
        if self._loaded is not None:
            self._was = Before(
                p95_ms=self._runtime.p95_ms, rss_mb=self._senses.rss_mb(), headroom_c=self._senses.headroom_c()
            )
            self._before = self._runtime.plain
            self._runtime.swap(self._loaded)
            self._loaded = None

    def back(self) -> None:
        """The model before answers again, at once, where it is still at hand: before anything is written, should the disk be full."""
        if self._before is not None and self._runtime.model is not self._before:
            self._runtime.swap(self._before)

    def forget(self) -> None:
        """Nothing will be rolled back any more."""
        self._before = self._loaded = None

    async def _ask(self, record: Record) -> Event:
        while (held := self._hold()) is not None:
            if held.for_good:
                return Withdrawn(held.what, "gave_up", held.code)
            self._say(held.what, held.code)
            await asyncio.sleep(self._terms.ask_s)
        return Permitted()

    async def _fetch(self, record: Record) -> Event:
        wait_s, damaged = self._terms.retry_s, 0
        while True:
            try:
                bundle = await fetch_release(
                    release=record.offered,
                    size=record.size,
                    slot=OTHER[record.slot],
                    folder=self._folder,
                    source=polite(
                        self._source(),
                        may_go_on=self._may_go_on,
                        stands=lambda: self._hold() is not None,
                        look_s=self._terms.ask_s,
                    ),
                )
                problem = lacks_embedding(self._folder.task, bundle.manifest)
                return Unfit(problem, "wrong_task") if problem else Fetched(bundle.manifest.version)
            except BundleError as error:
                damaged += error.reason == "digest_mismatch"
                if error.reason != "digest_mismatch" or damaged >= DAMAGED_TRIES:
                    return Unfit(error.what, error.reason)
                self._say(error.what, error.reason)
            except OutriderError as error:
                self._say(error.what, error.reason)
            except OSError as error:
                self._say(str(error), "slots_unwritable")
            wait_s = await self._pause(wait_s)

    async def _pause(self, wait_s: float) -> float:
        """Waits about that long; how long the next pause is."""
        await asyncio.sleep(wait_s * _SPREAD.uniform(0.5, 1.0))
        return min(RETRY_MAX_S, 2 * wait_s)

    async def _may_go_on(self) -> None:
        """Returns when nothing stands against another byte."""
        while (held := self._hold()) is not None:
            self._say(held.what, held.code)
            await asyncio.sleep(self._terms.ask_s)

    async def _test(self, record: Record) -> Event:
        wait_s, doubts = self._terms.retry_s, 0
        while not (found := await asyncio.to_thread(self._selftest, self._folder.path(OTHER[record.slot]))).ok:
            doubts += found.reason in DOUBTFUL
            if found.reason not in NOT_ITS_FAULT and (found.reason not in DOUBTFUL or doubts > 1):
                return Unfit(f"self-test: {found.detail or found.reason}", found.reason or "selftest_failed")
            self._say(f"self-test: {found.detail or found.reason}", "selftest_again")
            wait_s = await self._pause(wait_s)
        if self._terms.selftest_ms and found.ms > self._terms.selftest_ms:
            return Unfit(
                f"self-test: one inference takes {found.ms:g} ms, more than {self._terms.selftest_ms:g}",
                "selftest_slow",
            )
        return Passed()

    async def _load_offered(self, record: Record) -> Event:
        try:
            self._loaded, faults = await asyncio.to_thread(self._loaded_from, OTHER[record.slot], record.offered)
        except BundleError as error:
            return Unfit(error.what, error.reason)
        return Unfit(faults[0], "bad_golden") if faults else Loaded()

    async def _watch(self, record: Record) -> Event:
        loop = asyncio.get_running_loop()
        before = self._before or await asyncio.to_thread(self._model_before, record)
        watching = Watching(
            runtime=self._runtime,
            before=before,
            was=self._was,
            senses=self._senses,
            run_s=record.spent_s,
            answers=record.answers,
        )
        began = loop.time()
        try:
            while True:
                if (found := verdict(watching.seen(loop.time() - began), self._terms.probation)) is not None:
                    return found
                await asyncio.sleep(self._terms.look_s)
        finally:
            watching.close()

    def _model_before(self, record: Record) -> Model | None:
        """After a restart within a probation: the model in the other slot, to compare with."""
        try:
            return self._loaded_from(OTHER[record.slot], record.previous)[0] if record.previous else None
        except BundleError as error:
            log.warning("update.nothing_to_compare", extra={"task": self._folder.task.name, "what": str(error)})
            return None

    async def _restore(self, record: Record) -> Event:
        if self._before is not None and self._before.digest == record.running:
            if self._runtime.model is not self._before:
                self._runtime.swap(self._before)
            return RolledBack()
        try:
            model, _ = await asyncio.to_thread(self._loaded_from, record.slot, record.running)
        except BundleError as error:
            log.error("slots.unusable", extra={"task": self._folder.task.name, "slot": record.slot, "what": str(error)})
            return await asyncio.to_thread(self._from_factory, record, error)
        self._runtime.swap(model)
        return RolledBack()

    def _from_factory(self, record: Record, error: BundleError) -> Event:
        """The slot to return to is damaged: the configured bundle takes its place. Raises `BundleError`: it is damaged too."""
        bundle = self._folder.install(self._factory, record.slot)
        self._runtime.swap(self._load(bundle))
        version = bundle.manifest.version
        return FellBack(slot=record.slot, running=bundle.digest, version=version, reason=error.what)

    def _loaded_from(self, slot: Slot, digest: str) -> tuple[Model, list[str]]:
        model = self._load(self._folder.open(slot, digest))
        return model, check_golden(model)
