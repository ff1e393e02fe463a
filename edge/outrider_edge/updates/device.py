"""The updates of a whole device: orders judged, tasks that change together, stops, pins, what ended. Knows no topics and no HTTP.

Everything runs on one event loop; what blocks (signatures, the disk) runs in threads, one order or stop after the other.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from outrider_edge.updates.asked import Asked, Kind
from outrider_edge.updates.ending import Endings
from outrider_edge.updates.events import Assigned, Denied, Withdrawn
from outrider_edge.updates.judging import Approved, LocalFacts, TaskFacts
from outrider_edge.updates.ledger import Halt, LedgerFile, kept_number
from outrider_edge.updates.orders import ATTACKS, Judge
from outrider_edge.updates.record import SETTLED, UNTRIED, Record
from outrider_edge.updates.reporting import Reporter
from outrider_edge.updates.together import due, under_way_with
from outrider_edge.updates.updater import TaskUpdater
from outrider_edge.updates.waiting import Hold, Surroundings, WhenTerms, device_hold, hold
from outrider_trust.facts import Versions
from outrider_wire.errors import OutriderError, TrustError
from outrider_wire.messages import Desired, Reported, SlotReport, Telemetry
from outrider_wire.rollout import DeviceOrder, Stop

log = logging.getLogger(__name__)

RETRY_S, RETRY_MAX_S = 1.0, 300.0
"""Between two attempts to judge an order while its metadata cannot be had."""
POLL_S = 3600.0
"""Newer metadata is asked for this often, should nothing be heard."""
_SPREAD = random.Random()  # noqa: S311 - spreads load, guards nothing


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class DeviceTerms:
    """What the operator permits, and what this device is."""

    when: WhenTerms = field(default_factory=WhenTerms)
    unsigned: bool = False
    """Whether assignments that nobody signed are heeded: never beside a root of trust."""
    local: LocalFacts
    metered: Callable[[], bool] = lambda: False
    now_ms: Callable[[], int] = _now_ms
    """UTC."""


class Held:
    """Why nothing begins: asked by every task. Made before the tasks are."""

    def __init__(self, *, ledger: LedgerFile, terms: DeviceTerms) -> None:
        self._ledger = ledger
        self._terms = terms

    def around(self) -> Surroundings:
        """What counts now."""
        ledger = self._ledger.now
        return Surroundings(
            now_ms=self._terms.now_ms(),
            halt=ledger.halt,
            pinned=ledger.pinned,
            pin_reason=ledger.pin_reason,
            damaged=ledger.damaged,
            metered=self._terms.metered(),
        )

    def __call__(self, record: Record) -> Hold | None:
        """Why the next step of a task may not begin now."""
        return hold(record, self.around(), self._terms.when)


class Updater:
    """The slots of every task: `outrider_edge.ports.UpdatesPort`.

    Args:
        tasks: each made with ``held``.
        ledger: what must not be forgotten.
        held: see `Held`.
        terms: what is permitted.
        judge: who says what may be done; None: nothing is signed here.
        reporter: makes the reports.
        changed: called when a report says something new.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[TaskUpdater],
        ledger: LedgerFile,
        held: Held,
        terms: DeviceTerms,
        reporter: Reporter,
        judge: Judge | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.tasks: Mapping[str, TaskUpdater] = {updater.task: updater for updater in tasks}
        self.ledger = ledger
        self.judge = judge
        self._held = held
        self._terms = terms
        self._reporter = reporter
        self._changed = changed
        self._endings = Endings(ledger=ledger, now_ms=terms.now_ms, committed=self._committed)
        self._asked = Asked()
        self._driver: asyncio.Task[None] | None = None
        self._order = b""
        self._unjudged: dict[Kind, bytes] = {}
        self._judged = b""
        self._waiting: Approved | None = None
        self.trouble = ""
        """Why the newest order is not judged yet."""
        for updater in tasks:
            updater.attach(meet=self.meet, ending=self._endings.ended)

    def start(self) -> None:
        """Starts each task, and the judging."""
        for updater in self.tasks.values():
            updater.start()
        self._driver = asyncio.create_task(self._drive())
        self.meet()

    async def stop(self) -> None:
        """Stops each."""
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.gather(self._driver, return_exceptions=True)
        for updater in self.tasks.values():
            await updater.stop()

    # what arrives

    def on_desired(self, desired: Desired) -> None:
        """What the cloud wants. With a root of trust only what is signed is looked at; without one, only where that is permitted."""
        if self.judge is not None:
            known = (
                b"",
                self._judged,
                self._unjudged.get("order"),
            )  # the cloud says an order again at every word from here
            if desired.signed not in known:
                self._asked.put("order", desired.signed)
            return
        if not self._terms.unsigned:
            if desired.assignments:
                log.warning("update.unsigned_ignored", extra={"tasks": [wish.task for wish in desired.assignments]})
            return
        for wish in desired.assignments:
            if (updater := self.tasks.get(wish.task)) is not None:
                updater.assign(Assigned(release=wish.release, size=wish.size, counter=wish.counter))
            else:
                log.info("update.unknown_task", extra={"task": wish.task})

    def on_stop(self, envelope: bytes) -> None:
        """The cloud's emergency stop."""
        if self.judge is not None:
            self._asked.put("stop", envelope)

    def on_newer(self, timestamp: int) -> None:
        """There may be newer metadata."""
        known = self.judge.versions.timestamp if self.judge is not None and self.judge.versions else 0
        if self.judge is not None and timestamp > known:
            self._asked.put("refresh")

    # what is told

    def slots(self) -> list[SlotReport]:
        """What every slot holds."""
        return [updater.report() for updater in self.tasks.values()]

    def releases(self) -> dict[str, str]:
        """What runs, by task."""
        return {slot.task: slot.running for slot in self.slots()}

    def facts(self) -> dict[str, str]:
        """What this device says of itself, and plans ask for."""
        return self._terms.local.said

    async def reported(self) -> Reported:
        """What is told of all of it, under a number of its own."""
        return await asyncio.to_thread(
            self._reporter.report, self.slots(), metadata=metadata_of(self.judge), held=self.held
        )

    async def signed(self, told: Telemetry) -> Telemetry:
        """The same with the signature of this device's reports."""
        return await asyncio.to_thread(self._reporter.sign, told)

    @property
    def unsigned(self) -> bool:
        """Whether what nobody signed is heeded here."""
        return self._terms.unsigned and self.judge is None

    @property
    def held(self) -> str:
        """Why nothing begins on this device; '' when nothing is in the way."""
        return self.held_back or self.trouble

    @property
    def held_back(self) -> str:
        """The same, without what keeps the cloud's newest word from being judged."""
        found = device_hold(self._held.around())
        return found.what if found is not None else ""

    # tasks that change together

    def meet(self) -> None:
        """Has the tasks of one order go on together, and hands on an order that waited for another's end."""
        records = {name: updater.record for name, updater in self.tasks.items()}
        loaded = {name for name, updater in self.tasks.items() if updater.loaded and self._held(updater.record) is None}
        for name, event in due(records, loaded).items():
            self.tasks[name].happen(event)
        if self._waiting is not None and not self._in_use(records):
            approved, self._waiting = self._waiting, None
            self._hand_on(approved)

    def hand_on(self, approved: Approved) -> None:
        """Carries an approved order out; while a release is in its probation, after that."""
        records = {name: updater.record for name, updater in self.tasks.items()}
        if self._in_use(records):
            self._waiting = approved
        else:
            self._hand_on(approved)

    def _in_use(self, records: Mapping[str, Record]) -> bool:
        return any(record.order and record.state in ("probation", "rollback") for record in records.values())

    def _hand_on(self, approved: Approved) -> None:
        for name, wish in approved.wishes.items():
            self.tasks[name].assign(wish)

    # orders and stops

    async def _drive(self) -> None:
        await self._patiently(self._caught_up)
        while True:
            try:
                async with asyncio.timeout(POLL_S * _SPREAD.uniform(0.8, 1.2)):
                    kind, data = await self._asked.get()
            except TimeoutError:
                kind, data = "refresh", b""
            await self._patiently(partial(self._take, kind, data))

    async def _caught_up(self) -> str:
        records = {name: updater.record for name, updater in self.tasks.items()}
        await asyncio.to_thread(self._endings.catch_up, records)
        await asyncio.to_thread(self.ledger.keep, lambda now: replace(now, attack=""))
        return ""

    async def _patiently(self, work: Callable[[], Awaitable[str]]) -> None:
        """Until it is done, or it can never be, or something newer is asked.

        Args:
            work: returns what stands in the way of the newest order all the same.
        """
        wait_s = RETRY_S
        while True:
            try:
                self.trouble = await work()
                self._changed()
                return
            except TrustError as error:
                await self._not_judged(error)
                return
            except (OutriderError, OSError) as error:
                await self._not_judged(error)
            if await self._asked.within(wait_s):  # a stop does not wait for the end of a pause
                return
            wait_s = min(RETRY_MAX_S, 2 * wait_s)

    async def _not_judged(self, error: OutriderError | OSError) -> None:
        self.trouble = error.what if isinstance(error, OutriderError) else str(error)
        log.warning("update.not_judged", extra={"what": self.trouble})
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._refused_word, error)
        self._changed()

    async def _take(self, kind: Kind, data: bytes) -> str:
        judge, trouble = self.judge, ""
        if judge is None:
            return trouble
        if kind == "refresh":
            await asyncio.to_thread(judge.refresh)
        else:
            self._unjudged[kind] = data
            if kind == "stop":
                await self.halt(await asyncio.to_thread(judge.stop, data))
            else:
                trouble = await self._take_order(judge, data)
                self._judged = data
            del self._unjudged[kind]
        for left, word in self._unjudged.items():  # metadata can be had again, or there is a newer key
            self._asked.put_again(left, word)
        return trouble

    async def _take_order(self, judge: Judge, data: bytes) -> str:
        """Why it is not begun now, though it may be."""
        if self.ledger.now.damaged:
            return ""
        sha256 = hashlib.sha256(data).hexdigest()
        order, found = await asyncio.to_thread(judge.order, data, self.local())
        if isinstance(found, OutriderError):
            log.warning("order.refused", extra={"order": order.number, "reason": found.reason, "what": found.what})
            await asyncio.to_thread(self._refused_word, found)
            if order.number > self.ledger.now.order:
                await asyncio.to_thread(self._keep_denied, order, sha256, found)
            return ""
        if order.number > self.ledger.now.order:
            await asyncio.to_thread(self.ledger.keep, lambda now: replace(now, order=order.number, order_sha256=sha256))
        log.info("order.approved", extra={"order": order.number, "rollout": order.rollout, "kind": order.kind})
        self._order = data
        if self.ledger.now.halt.holds(order.rollout):
            return f"rollout {order.rollout} is stopped"
        self.hand_on(found)
        return ""

    def _keep_denied(self, order: DeviceOrder, sha256: str, error: OutriderError) -> None:
        """The number counts all the same: the cloud meant it for this device, and is told what came of it."""
        self.ledger.keep(lambda now: replace(now, order=order.number, order_sha256=sha256))
        for planned in order.releases:
            self._endings.denied(order, planned, error)
            if (updater := self.tasks.get(planned.task)) is not None:
                updater.happen(Denied(order=order.number, rollout=order.rollout, reason=error.what, code=error.reason))

    async def halt(self, stop: Stop) -> None:
        """Heeds a stop: durable, then every task of it ends where it safely can."""
        known = self.ledger.now.halt
        if stop.number <= known.number:
            return
        number = kept_number(stop.number, self._terms.now_ms())
        halted = Halt(number=number, standing=not stop.lifted, rollouts=list(stop.rollouts), reason=stop.reason)
        await asyncio.to_thread(self.ledger.keep, lambda now: replace(now, halt=halted))
        log.warning("update.stopped" if halted.standing else "update.stop_lifted", extra={"number": stop.number})
        if self._waiting is not None and halted.holds(self._waiting.rollout):
            self._waiting = None
        for updater in self.tasks.values():
            record = updater.record
            if halted.holds(record.rollout) and record.state not in SETTLED:
                updater.happen(
                    Withdrawn(f"stop {stop.number}: {stop.reason or 'no reason given'}", "stopped", "stopped")
                )
        if not halted.standing and self._order:
            self._asked.put_again("order", self._order)  # what was stopped may go on

    def _refused_word(self, error: Exception) -> None:
        if isinstance(error, OutriderError) and error.reason in ATTACKS:
            self.ledger.keep(lambda now: replace(now, attack=error.reason))

    def local(self) -> LocalFacts:
        """What an order is judged by."""
        ledger = self.ledger.now
        tasks = {name: self._task_facts(name, updater.record) for name, updater in self.tasks.items()}
        number = max(ledger.order, *(updater.record.order for updater in self.tasks.values()))
        sha256 = ledger.order_sha256 if number == ledger.order else ""
        return replace(self._terms.local, order=number, order_sha256=sha256, tasks=tasks)

    def _task_facts(self, name: str, record: Record) -> TaskFacts:
        kept = self.ledger.task(name)
        return TaskFacts(
            running=record.running,
            version=record.version,
            previous=record.previous,
            floor=max(record.floor, kept.floor),
            floor_release=kept.floor_release,
            counter=record.release_counter,
            refused=tuple({*record.refused, *kept.refused}),
        )

    def _committed(self, task: str, counter: int) -> None:
        if self.judge is not None and counter:
            self.judge.committed(task, counter)

    def under_way(self, task: str) -> list[str]:
        """The tasks that change together with one, itself too, while something is under way there."""
        records = {name: updater.record for name, updater in self.tasks.items()}
        return [name for name in under_way_with(task, records) if records[name].state not in SETTLED]

    def untried(self) -> list[str]:
        """The tasks of which a release is on its way."""
        return [name for name, updater in self.tasks.items() if updater.record.state in UNTRIED]


def metadata_of(judge: Judge | None) -> dict[str, int]:
    """The versions of the metadata that is believed, by role."""
    versions: Versions | None = judge.versions if judge is not None else None
    if versions is None:
        return {}
    plain = {name: getattr(versions, name) for name in ("root", "timestamp", "snapshot", "targets")}
    roles = sorted(versions.roles.items())[: 64 - len(plain)]
    return {**plain, **{role: number for role, number in roles if len(role) <= 64}}
