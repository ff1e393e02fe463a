"""Carries out what `outrider_edge.updates.rules` decides for each task: writes the record, then runs the effects. Decides nothing.

The record is on the disk before any of its effects is run, and everything long runs outside the event loop: the old model
answers until the moment of the swap.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from outrider_edge.ports import RuntimePort
from outrider_edge.updates.fetching import ReleaseSource
from outrider_edge.updates.jobs import SelfTest, UpdateJobs, UpdateTerms
from outrider_edge.updates.rules import SETTLED, Assigned, Effect, Event, Record, Stopped, step
from outrider_edge.updates.starting import Load, SlotStart
from outrider_engine.selftest import run_selftest
from outrider_wire.messages import Desired, SlotReport

log = logging.getLogger(__name__)

T = TypeVar("T")


class TaskUpdater:
    """The slots of one task. Runs on one event loop.

    Args:
        start: the slots as the process found them.
        runtime: answers with ``start.model`` already.
        source: where releases come from.
        load: how a bundle becomes a model here, warm.
        changed: called whenever `report` says something new.
    """

    def __init__(
        self,
        *,
        start: SlotStart,
        runtime: RuntimePort,
        source: ReleaseSource,
        load: Load,
        changed: Callable[[], None],
        terms: UpdateTerms | None = None,
        selftest: SelfTest = run_selftest,
    ) -> None:
        self.record = start.record
        self._folder = start.folder
        self._pending = start.pending
        self._runtime = runtime
        self._changed = changed
        self._terms = terms or UpdateTerms()
        self._jobs = UpdateJobs(
            folder=start.folder,
            runtime=runtime,
            source=source,
            load=load,
            terms=self._terms,
            say=self._say,
            selftest=selftest,
        )
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._wish: Assigned | None = None
        self._trouble = ""
        self._job: asyncio.Task[None] | None = None
        self._driver: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Goes on where the last process stopped."""
        self._driver = asyncio.create_task(self._drive())

    async def stop(self) -> None:
        """Stops in good order; what was under way goes on with the next start."""
        for task in (self._driver, self._job):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        stopped, _ = step(self.record, Stopped())
        if stopped != self.record:
            await asyncio.to_thread(self._folder.save, stopped)

    def assign(self, wish: Assigned) -> None:
        """The cloud wants a release here."""
        self._wish = wish
        self._events.put_nowait(wish)

    def report(self) -> SlotReport:
        """What really runs, and where an update stands."""
        record, model = self.record, self._runtime.model
        return SlotReport(
            task=self._runtime.task.name,
            running=model.digest,
            version=model.manifest.version,
            slot=record.slot,
            state=record.state,
            reason=(record.reason or self._trouble)[:512],
            offered=record.offered,
            counter=record.counter,
            refused=record.refused,
        )

    async def _drive(self) -> None:
        await self._run(self._pending)
        while True:
            await self._happen(await self._events.get())

    async def _happen(self, event: Event) -> None:
        before = self.record
        record, effects = step(before, event)
        if record == before and not effects:
            return
        await self._on_disk(self._folder.save, record)
        self.record = record
        if record.state != before.state:
            self._trouble = ""
            self._log(before)
        await self._run(effects)
        if record.state in SETTLED:
            self._jobs.forget()
            if before.state not in SETTLED and self._wish is not None:
                self._events.put_nowait(self._wish)
        self._changed()

    async def _run(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case "cancel":
                    await self._cancel()
                case "point":
                    await self._on_disk(self._folder.point, self.record.slot)
                case "swap":
                    self._jobs.swap()
                case _:
                    await self._cancel()
                    self._job = asyncio.create_task(self._supervised(self._jobs.begin(effect, self.record)))

    async def _on_disk(self, write: Callable[[T], None], what: T) -> None:
        """Writes, however long the disk refuses: nothing may happen before it is written."""
        while True:
            try:
                await asyncio.to_thread(write, what)
            except OSError as error:
                log.error("update.not_written", extra={"task": self._runtime.task.name, "what": str(error)})
                self._say(f"the slots cannot be written: {error}")
                await asyncio.sleep(self._terms.retry_s)
            else:
                return

    async def _cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()
            await asyncio.gather(self._job, return_exceptions=True)
            self._job = None

    async def _supervised(self, job: Coroutine[Any, Any, Event]) -> None:
        try:
            event = await job
        except Exception as error:  # supervised: logged and reported; the model in use goes on answering
            log.exception("update.failed", extra={"task": self._runtime.task.name, "state": self.record.state})
            self._say(f"{type(error).__name__}: {error}")
        else:
            self._events.put_nowait(event)

    def _say(self, trouble: str) -> None:
        """What keeps an update from going on now: shown in the report until its state changes."""
        if trouble != self._trouble:
            log.info("update.trouble", extra={"task": self._runtime.task.name, "what": trouble})
            self._trouble = trouble
            self._changed()

    def _log(self, before: Record) -> None:
        facts = {"state": self.record.state, "was": before.state, "reason": self.record.reason}
        release = self.record.offered or self.record.running
        log.info("update.state", extra={"task": self._runtime.task.name, "release": release, **facts})


class Updater:
    """The slots of every task of a device: `outrider_edge.uplink.uplink.UpdatesPort`."""

    def __init__(self, *, tasks: Sequence[TaskUpdater]) -> None:
        self._tasks = {updater.report().task: updater for updater in tasks}

    def start(self) -> None:
        """Starts each."""
        for updater in self._tasks.values():
            updater.start()

    async def stop(self) -> None:
        """Stops each."""
        for updater in self._tasks.values():
            await updater.stop()

    def on_desired(self, desired: Desired) -> None:
        """Hands each assignment to its task; one for a task that is not here is nobody's."""
        for wish in desired.assignments:
            if (updater := self._tasks.get(wish.task)) is not None:
                updater.assign(Assigned(release=wish.release, size=wish.size, counter=wish.counter))
            else:
                log.info("update.unknown_task", extra={"task": wish.task})

    def slots(self) -> list[SlotReport]:
        """What every slot holds."""
        return [updater.report() for updater in self._tasks.values()]


__all__ = ["TaskUpdater", "UpdateTerms", "Updater"]
