"""One device of the fleet: the agent's own updater, slots, ledger, trusted metadata, outbox and uplink, started again after every cut.

What of an agent is not here: its HTTP API, its sources and its gate. Inputs go to the task's runtime itself.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from outrider.sim.fleet.counted import CountedSource
from outrider.sim.fleet.fast_clock import FastClock
from outrider.sim.fleet.fates import Fate
from outrider.sim.fleet.fresh_start import trouble
from outrider.sim.fleet.goods import TASK, Scene
from outrider.sim.fleet.power import Power, PowerCutError
from outrider.sim.fleet.shelf import Shelf
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.updates.device import DeviceTerms, Held, Updater
from outrider_edge.updates.judging import LocalFacts
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.orders import OrderDesk
from outrider_edge.updates.probation import ProbationTerms
from outrider_edge.updates.record import SETTLED, Record
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import SlotStart, settle_together, start_slots
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.updates.waiting import WhenTerms
from outrider_edge.updates.watching import Senses
from outrider_edge.uplink.metadata import UplinkMetadata
from outrider_edge.uplink.uplink import BrokerAccess, Uplink
from outrider_wire.errors import OutriderError
from outrider_wire.messages import Desired, Reported, SlotReport, Telemetry

AGENT = "1.0.0"
ANSWERS = 48
"""That end a probation well."""
TERMS = UpdateTerms(
    probation_answers=ANSWERS,
    probation_least_s=0.0,
    probation_s=120.0,
    retry_s=0.5,
    ask_s=0.5,
    tick_s=5.0,
    look_s=0.5,
    watch=ProbationTerms(agreement=0.7, slower=0.0, memory_mb=0.0),
)
"""Latency and memory are those of a process with the whole fleet in it, and are not compared."""
AGAIN = WhenTerms(pauses_s=(2.0, 5.0))
"""A trial that was lost with the power is made again sooner than outside."""
CALM_S, BUSY_S = 4.0, 0.1
"""Between two inputs: usually, and on a device whose new model is on probation."""
OFF_S, FULL_S = (0.5, 4.0), 6.0
"""How long the power is away, from and to; how long a disk is full."""


@dataclass(kw_only=True)
class Ground:
    """What all devices have in common."""

    folder: Path
    factory: Path
    root: bytes
    shelf: Shelf
    clock: FastClock
    task_changed: Callable[[str], None] = lambda _: None


@dataclass(kw_only=True)
class Books:
    """What happened on one device, over all its lives."""

    lives: int = 0
    cuts: int = 0
    fulls: int = 0
    steps: int = 0
    """Changes to its disk."""
    looks: int = 0
    """Those to its slots, before each of which a start was tried."""
    asked: int = 0
    refused: int = 0
    """Inputs that had no answer though the power was there."""
    wrong: int = 0
    without_model: list[str] = field(default_factory=list)
    pulled: Counter[str] = field(default_factory=Counter)
    ran: list[str] = field(default_factory=list)
    """Releases that ever answered here."""
    bad_ends: list[str] = field(default_factory=list)


class SimDevice:
    """`run` it in a task of its own.

    Args:
        name, profile: whose.
        url: of the broker, or of the line to it.
        fate: what befalls it.
        ground: what it shares.
    """

    def __init__(self, *, name: str, profile: str, url: str, fate: Fate, ground: Ground) -> None:
        self.name = name
        self.profile = profile
        self.books = Books()
        self.on = False
        self.runs = ""
        """The release that answers, or did when the power went."""
        self.state = ""
        self.fate = fate
        self._url = url
        self._ground = ground
        self._folder = ground.folder / name
        self._slots = self._folder / "slots" / TASK.name
        self._scene = Scene(profile=profile, seed=fate.seed)
        self._chance = random.Random(fate.seed)  # noqa: S311 - when the power comes back
        self._met: list[bytes] = []
        self._begun = False
        self._power = self._new_power(lambda: None)
        self._gone_for_good = asyncio.Event()

    @property
    def lost(self) -> bool:
        """It will never be heard of again."""
        return self._gone_for_good.is_set()

    async def run(self) -> None:
        """Lives, is cut, and lives again, until it is cancelled or goes for good."""
        while not self.lost:
            await self._live()
            self.on = False
            await asyncio.sleep(self._chance.uniform(*OFF_S))

    def lose(self) -> None:
        """Out of reach for good."""
        self._gone_for_good.set()
        self._power.cut()

    # --- one life

    def _new_power(self, gone: Callable[[], None]) -> Power:
        return Power(root=str(self._folder), watched=str(self._slots), look=self._look, gone=gone)

    async def _live(self) -> None:
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def went() -> None:
            loop.call_soon_threadsafe(gone.set)

        self._power = power = self._new_power(went)
        power.owns()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._start(stack)
                self.on = True
                await gone.wait()
            except PowerCutError:
                pass  # as it started
            finally:
                power.dead = True
                self.on = False
        self.books.steps += power.steps
        self.books.cuts += 1

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        ledger, start = await asyncio.to_thread(self._started)
        self._begun = True
        self.books.lives += 1
        runtime = TaskRuntime(task=TASK, model=start.model)
        stack.callback(runtime.close)
        runtime.on_swap = lambda: self._answers(runtime)
        self._answers(runtime)
        outbox = Outbox(folder=self._folder / "outbox")
        await outbox.start()
        stack.push_async_callback(outbox.stop)
        uplink = Uplink(
            device=self.name,
            access=BrokerAccess(url=self._url),
            outbox=outbox,
            figures=Metrics(tasks=[TASK.name]),
            agent=AGENT,
            telemetry_every_s=15.0,
        )
        updater = self._updater(ledger, start, runtime, uplink)
        self._stands(start.record)  # the last life may have been cut between the record and the word of it
        uplink.attach(_Heard(updater, self._ordered))
        uplink.on_stop, uplink.on_newer = updater.on_stop, updater.on_newer
        updater.start()
        stack.push_async_callback(_dropped, updater)
        await uplink.start()
        stack.push_async_callback(uplink.stop)
        asking = asyncio.create_task(self._traffic(runtime, updater.tasks[TASK.name]))
        stack.callback(asking.cancel)

    def _started(self) -> tuple[LedgerFile, SlotStart]:
        ledger = LedgerFile(self._folder / "updates")
        slots = SlotFolder(folder=self._slots, task=TASK)
        settle_together({TASK.name: slots})
        kept = ledger.task(TASK.name) if TASK.name in ledger.now.tasks else None
        boot = f"{self.name} {self._chance.random()}"  # its power was gone
        return ledger, start_slots(
            folder=slots, factory=self._ground.factory, load=self._ground.shelf.load, kept=kept, boot=boot
        )

    def _updater(self, ledger: LedgerFile, start: SlotStart, runtime: TaskRuntime, uplink: Uplink) -> Updater:
        ground = self._ground
        terms = DeviceTerms(
            when=AGAIN,
            local=LocalFacts(
                device=self.name, facts={"profile": self.profile}, agent=AGENT, profile=self.profile, memory_mb=512
            ),
            now_ms=ground.clock.now_ms,
        )
        held = Held(ledger=ledger, terms=terms)
        task = TaskUpdater(
            start=start,
            runtime=runtime,
            source=CountedSource(uplink=uplink, release=lambda: task.record.offered, pulled=self.books.pulled),
            load=ground.shelf.load,
            selftest=lambda bundle: ground.shelf.selftest(self.name, bundle),
            changed=lambda: self._changed(task, uplink),
            terms=TERMS,
            hold=held,
            senses=Senses(contact=lambda: uplink.connected, rss_mb=lambda: 0.0),
        )
        return Updater(
            tasks=[task],
            ledger=ledger,
            held=held,
            terms=terms,
            reporter=Reporter(device=self.name, ledger=ledger, key=lambda: report_key(self._folder / "updates", None)),
            judge=OrderDesk(
                folder=self._folder / "metadata",
                root=ground.root,
                source=UplinkMetadata(uplink.metadata.ask, asyncio.get_running_loop()),
                clock=ground.clock.now_s,
            ),
            changed=uplink.report,
        )

    # --- what it sees

    async def _traffic(self, runtime: TaskRuntime, task: TaskUpdater) -> None:
        """Inputs, one after the other, whatever the updater does meanwhile."""
        await asyncio.sleep(self._chance.uniform(0, CALM_S))
        while True:
            parts, right = self._scene.next()
            self.books.asked += 1
            try:
                answer = await runtime.ask(parts)
            except OutriderError:
                self.books.refused += 1
            else:
                self.books.wrong += answer.label != right
            watched = task.record.state == "probation" and runtime.served < ANSWERS
            await asyncio.sleep(BUSY_S if watched else CALM_S)

    def _answers(self, runtime: TaskRuntime) -> None:
        self.runs = runtime.model.digest
        if self.runs not in self.books.ran:
            self.books.ran.append(self.runs)

    def _changed(self, task: TaskUpdater, uplink: Uplink) -> None:
        self._stands(task.record)
        uplink.report()

    def _stands(self, record: Record) -> None:
        if record.state != self.state and record.state in SETTLED and record.outcome not in ("", "committed"):
            self.books.bad_ends.append(f"{record.outcome}: {record.reason}")
        self.state = record.state

    # --- what befalls it

    def _ordered(self, order: bytes) -> None:
        """An order came, perhaps again: what fate has for this one begins to count."""
        if order in self._met:
            return
        place, fate = len(self._met), self.fate
        self._met.append(order)
        cut = fate.cuts[place] if place < len(fate.cuts) else None
        full = fate.full[place] if place < len(fate.full) else None
        if fate.lost == "within":
            self._gone_for_good.set()
        if cut is not None:
            self._power.cut_after(cut)
        if full is not None:
            loop, power = asyncio.get_running_loop(), self._power

            def filled() -> None:
                loop.call_soon_threadsafe(self._filled, power)

            power.fill_after(full, filled)

    def _filled(self, power: Power) -> None:
        self.books.fulls += 1
        asyncio.get_running_loop().call_later(FULL_S, power.free)

    def _look(self) -> None:
        """Before every change to the slots: would a start find a model?"""
        self.books.looks += 1
        if self._begun and (why := trouble(self._slots, TASK, self._ground.shelf.load)):
            self.books.without_model.append(why)


class _Heard:
    """`outrider_edge.ports.UpdatesPort` of an updater, whose orders are heard of."""

    def __init__(self, updater: Updater, ordered: Callable[[bytes], None]) -> None:
        self._updater = updater
        self._ordered = ordered

    def on_desired(self, desired: Desired) -> None:
        if desired.signed:
            self._ordered(desired.signed)
        self._updater.on_desired(desired)

    def slots(self) -> list[SlotReport]:
        return self._updater.slots()

    def facts(self) -> dict[str, str]:
        return self._updater.facts()

    async def reported(self) -> Reported:
        return await self._updater.reported()

    async def signed(self, told: Telemetry) -> Telemetry:
        return await self._updater.signed(told)


async def _dropped(updater: Updater) -> None:
    """Stops it as a power cut does: the power is gone, so that whatever it would still write is not written."""
    with contextlib.suppress(PowerCutError):
        await updater.stop()
