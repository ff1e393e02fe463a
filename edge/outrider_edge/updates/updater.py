"""Carries out what `outrider_edge.updates.rules` decides for one task: writes the record, then runs the effects. Decides nothing.

The record is on the disk before any of its effects is run, and everything long runs outside the event loop: the old model
answers until the moment of the swap.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from msgspec import UNSET

from outrider_edge.ports import RuntimePort
from outrider_edge.updates.events import Assigned, Event, Loaded, Stopped, Ticked
from outrider_edge.updates.fetching import ReleaseSource
from outrider_edge.updates.jobs import SelfTest, UpdateJobs, UpdateTerms
from outrider_edge.updates.moves import Effect
from outrider_edge.updates.record import SETTLED, Record
from outrider_edge.updates.rules import PHASES, step
from outrider_edge.updates.starting import Load, SlotsFound
from outrider_edge.updates.together import due
from outrider_edge.updates.waiting import Hold
from outrider_edge.updates.watching import Senses
from outrider_engine.selftest import run_selftest
from outrider_wire.messages import SlotReport

log = logging.getLogger(__name__)

T = TypeVar("T")

Ending = Callable[[str, Record, Record], None]
"""Told a task, and its record before and after, when an order has ended there; blocks, and what it keeps is durable when it returns."""


def _free(_: Record) -> Hold | None:
    return None


class TaskUpdater:
    """The slots of one task. Runs on one event loop.

    Args:
        start: the slots as the process found them.
        runtime: answers with the model of the active slot already.
        source: where releases come from.
        load: how a bundle becomes a model here, warm.
        changed: called whenever `report` says something new.
        hold: why the next step of what a record offers may not begin now.
        senses: how the device fares.
    """

    def __init__(
        self,
        *,
        start: SlotsFound,
        runtime: RuntimePort,
        source: ReleaseSource,
        load: Load,
        changed: Callable[[], None],
        terms: UpdateTerms | None = None,
        hold: Callable[[Record], Hold | None] = _free,
        senses: Senses | None = None,
        selftest: SelfTest = run_selftest,
    ) -> None:
        self.record = start.record
        self.folder = start.folder
        self.loaded = False
        """The offered release is in memory and warm."""
        self.source = source
        """May be another one while a person installs from a folder."""
        self._usual_source = source
        self._pending = start.pending
        self._runtime = runtime
        self._changed = changed
        self._terms = terms or UpdateTerms()
        self._meet: Callable[[], None] = self._meet_alone
        self._ending: Ending = lambda _task, _before, _after: None
        self._jobs = UpdateJobs(
            folder=start.folder,
            runtime=runtime,
            source=lambda: self.source,
            load=load,
            terms=self._terms,
            say=self._say,
            hold=lambda: hold(self.record),
            senses=senses or Senses(),
            factory=start.factory,
            selftest=selftest,
        )
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._wish: Assigned | None = None
        self._trouble = ("", "")
        self._ticked_at, self._ticked_served = time.monotonic(), 0
        self._job: asyncio.Task[None] | None = None
        self._running: list[asyncio.Task[None]] = []

    @property
    def task(self) -> str:
        """Its name."""
        return self._runtime.task.name

    def attach(self, *, meet: Callable[[], None], ending: Ending) -> None:
        """Names who knows the other tasks, and who keeps what ends; called once, before `start`."""
        self._meet, self._ending = meet, ending

    def start(self) -> None:
        """Goes on where the last process stopped."""
        self._running = [asyncio.create_task(self._drive()), asyncio.create_task(self._tick())]

    async def stop(self) -> None:
        """Stops in good order; what was under way goes on with the next start."""
        for task in (*self._running, self._job):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        stopped, _ = step(step(self.record, self._run_time())[0], Stopped())
        if stopped != self.record:
            try:
                await asyncio.to_thread(self.folder.save, stopped)
            except OSError as error:  # the rest of the agent ends in good order all the same
                log.error("update.not_written", extra={"task": self.task, "what": str(error)})

    def assign(self, wish: Assigned) -> None:
        """A release is wanted here."""
        self._wish = wish
        self._events.put_nowait(wish)

    def happen(self, event: Event) -> None:
        """Something has happened to the update."""
        self._events.put_nowait(event)

    def report(self) -> SlotReport:
        """What really runs, and where an update stands."""
        record, model = self.record, self._runtime.model
        deadline_s = PHASES[record.state].deadline_s
        what, code = self._trouble
        return SlotReport(
            task=self.task,
            running=model.digest,
            version=model.manifest.version,
            slot=record.slot,
            state=record.state,
            reason=(record.reason or what)[:512],
            offered=record.offered,
            counter=record.counter,
            refused=record.refused,
            code=(record.code or code)[:64] or UNSET,
            order=record.order or UNSET,
            rollout=record.rollout or UNSET,
            release_counter=record.release_counter or UNSET,
            outcome=record.outcome if record.outcome and record.ended == record.order else UNSET,
            left_s=UNSET if deadline_s is None else round(max(0.0, deadline_s - record.spent_s), 1),
        )

    async def _drive(self) -> None:
        await self._run(self._pending)
        while True:
            await self._happened(await self._events.get())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._terms.tick_s)
            if self.record.state not in SETTLED:
                self._events.put_nowait(self._run_time())

    def _run_time(self) -> Ticked:
        """Since the last time this was asked."""
        now, served = time.monotonic(), self._runtime.served
        ticked = Ticked(now - self._ticked_at, max(0, served - self._ticked_served))
        self._ticked_at, self._ticked_served = now, served
        return ticked

    async def _happened(self, event: Event) -> None:
        before = self.record
        record, effects = step(before, event)
        self.loaded = self.loaded or (isinstance(event, Loaded) and record.state == "armed")
        if record == before and not effects:
            return
        if record.state == "rollback" and before.state != "rollback":
            self._jobs.back()
        if record != before:
            await self._on_disk(self.folder.save, record)
        self.record = record
        if record.state != before.state:
            self._entered(before)
        if (record.state in SETTLED and before.state not in SETTLED) or record.refused != before.refused:
            await self._on_disk(lambda ended: self._ending(self.task, before, ended), record)
        await self._run(effects)
        if record.state in SETTLED:
            self.source = self._usual_source
            self._jobs.forget()
            if before.state not in SETTLED and self._wish is not None:
                self._wish = _said_once(self._wish, before.offered)
                self._events.put_nowait(self._wish)
        self._meet()
        if not isinstance(event, Ticked):
            self._changed()

    def _entered(self, before: Record) -> None:
        record = self.record
        self._trouble = ("", "")
        self.loaded = self.loaded and record.state == "armed"
        self._ticked_at, self._ticked_served = time.monotonic(), 0
        facts = {"state": record.state, "was": before.state, "reason": record.reason}
        release = record.offered or record.running
        log.info("update.state", extra={"task": self.task, "release": release, **facts})

    async def _run(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case "cancel":
                    await self._cancel()
                case "point":
                    await self._on_disk(self.folder.point, self.record.slot)
                case "swap":
                    self._jobs.swap()
                case "meet":
                    self._meet()
                case _:
                    await self._cancel()
                    self._job = asyncio.create_task(self._supervised(self._jobs.begin(effect, self.record)))

    def _meet_alone(self) -> None:
        """No other task is known: what this one's order waits for is itself."""
        event = due({self.task: self.record}, {self.task} if self.loaded else ()).get(self.task)
        if event is not None:
            self._events.put_nowait(event)

    async def _on_disk(self, write: Callable[[T], None], what: T) -> None:
        """Writes, however long the disk refuses: nothing may happen before it is written."""
        while True:
            try:
                await asyncio.to_thread(write, what)
            except OSError as error:
                log.error("update.not_written", extra={"task": self.task, "what": str(error)})
                self._say(f"the slots cannot be written: {error}", "slots_unwritable")
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
            log.exception("update.failed", extra={"task": self.task, "state": self.record.state})
            self._say(f"{type(error).__name__}: {error}", "update_failed")
        else:
            self._events.put_nowait(event)

    def _say(self, trouble: str, code: str) -> None:
        """What keeps an update from going on now: shown in the report until its state changes."""
        if (trouble, code) != self._trouble:
            log.info("update.trouble", extra={"task": self.task, "what": trouble, "reason": code})
            changed = code != self._trouble[1]
            self._trouble = (trouble, code)
            if changed:
                self._changed()


def _said_once(wish: Assigned, ended: str) -> Assigned:
    """What a person wants is begun whatever became of it before: once. Heard again when it has ended, it would be begun for ever."""
    return replace(wish, by_hand=False) if wish.release == ended else wish


__all__ = ["TaskUpdater", "UpdateTerms"]
