"""Runs the rollouts: reads what is known, asks the controller, signs, makes it durable, then says it. Decides nothing.

Whatever ends it in between loses nothing: an order is stored, signed, before it is said, and what the broker has not taken is said again.
Two of these on one store do no harm: of two steps from the same state, one is written.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError

from outrider_cloud.clock import now_ms
from outrider_cloud.rollout.controller import Step, step
from outrider_cloud.rollout.ports import ControlSigner, PlanReader, Sender
from outrider_cloud.rollout.reading import seen_of
from outrider_cloud.rollout.records import Look, Seen, World
from outrider_cloud.rollout.states import STATES
from outrider_cloud.seldom import Seldom
from outrider_cloud.store import rollouts
from outrider_cloud.store.rollouts import Kept, OvertakenError, Signed
from outrider_cloud.store.schema import devices
from outrider_cloud.store.store import Store
from outrider_trust.client import NUMBER_AHEAD_MS
from outrider_trust.facts import SignedPlan
from outrider_wire.errors import OutriderError, PeerError, RuleRefusalError, UnreachableError
from outrider_wire.rollout import DeviceOrder, PlannedRelease, Stop

log = logging.getLogger(__name__)
log.addFilter(Seldom())

EVERY_S = 1.0
RESTS = 4.0
"""It rests so many times as long as a turn took: a look at 10 000 devices takes most of a second."""
SELDOM = 15
"""Turns between two looks at a rollout of which nothing is expected soon."""
SENT_AT_ONCE = 256
"""Orders that are read together."""


class Found(Struct, kw_only=True, frozen=True):
    """What was read for one look."""

    kept: Kept
    look: Look


class Rollouts:
    """The loop over all rollouts that are not history."""

    def __init__(
        self,
        *,
        store: Store,
        signer: ControlSigner | None,
        plans: PlanReader | None,
        sender: Sender,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._store = store
        self._signer = signer
        self._plans = plans
        self._reading = asyncio.Lock()
        self._known: dict[tuple[str, str], PlannedRelease] = {}
        self._sender = sender
        self._clock = clock
        self._listening_ms = 0
        self._turn = asyncio.Lock()
        self._saying = asyncio.Lock()
        self._turns = 0
        self.last: dict[str, Step] = {}
        """What the newest look at each came to: for people."""

    async def run(self, every_s: float = EVERY_S) -> None:
        """Turn by turn, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self.turn()
            except Exception:  # supervised: what fails now is looked at again in the next turn
                log.exception("rollouts.failed")
            await asyncio.sleep(max(every_s, RESTS * (loop.time() - began)))

    async def turn(self) -> None:
        """Looks at every rollout once, and says what is unsaid."""
        async with self._turn:
            if not self._sender.connected:
                self._listening_ms = 0
            elif not self._listening_ms:
                self._listening_ms = self._clock()
            for kept in await self._store.read(rollouts.all_of) if self._signer else []:
                if _due(kept, self._turns, self._clock()):
                    await self._guarded(kept.plan.rollout)
            self._turns += 1
            await self.send()

    async def look(self, rollout: str, *, returning: bool = False) -> Found:
        """Reads one rollout and the fleet; of one that is taken back, also what is signed of what ran before."""
        found = await self._store.read(partial(self._read, rollout=rollout))
        if not (returning or found.kept.progress.state == "rolling_back") or found.kept.plan.rollback_to:
            return found
        before = {pair for each in found.look.members.values() for pair in each.before.items()}
        world = replace(found.look.world, known=await self._signed_releases(before))
        return replace(found, look=replace(found.look, world=world))

    async def plan(self, task: str, rollout: str) -> SignedPlan | None:
        """A signed plan; None: there is none.

        Raises:
            OutriderError: it cannot be followed, or nothing is signed here.
        """
        if self._plans is None or self._signer is None:
            raise unsigned()
        async with self._reading:
            return await asyncio.to_thread(self._plans.plan, task, rollout)

    async def send(self) -> bool:
        """Says what the broker has not taken; whether it has taken all.

        A stop is said before any order. One that lets something go on is said after them: who was mid-way goes on by the newest.
        """
        async with self._saying:
            try:
                return (
                    await self._say_stop(letting_go=False)
                    and await self._say_orders()
                    and await self._say_stop(letting_go=True)
                )
            except (UnreachableError, PeerError) as error:
                log.warning("rollouts.unsaid", extra={"reason": error.reason})
                return False

    async def connected(self) -> None:
        """A broker may have lost what it retained: the newest stop is said again in the next turn.

        Orders are said again to each device that is there (`outrider_cloud.releases.Releases.offer_soon`).
        """
        await self._store.write(rollouts.say_stop_again)

    async def _say_stop(self, *, letting_go: bool) -> bool:
        """Says the newest stop; whatever another process said meanwhile, the newest is the last that is retained."""
        said = 0
        while (stop := await self._store.read(rollouts.newest_stop)) and stop.number != said:
            if not said and (stop.sent or (stop.lets_go and not letting_go)):
                break
            if not await self._sender.stop(stop.envelope):
                return False
            await self._store.write(partial(rollouts.stop_was_sent, number=stop.number))
            said = stop.number
        return True

    async def _say_orders(self) -> bool:
        while some := await self._store.read(partial(rollouts.unsent, most=SENT_AT_ONCE)):
            taken = []
            for each in some:
                if not await self._sender.offer(each.device):
                    break
                taken.append(each)
            await self._store.write(partial(rollouts.were_sent, unsent=taken))
            if len(taken) < len(some):
                return False
        return True

    async def stop(self, names: list[str], *, lifted: bool, reason: str) -> Stop:
        """Signs, stores and says a stop: of these rollouts beside those that are stopped already, or (lifted) of these no more.

        Raises:
            OutriderError: it cannot be signed; nothing was said.
            OvertakenError: another one was made meanwhile.
        """
        stop, after = await self.next_stop(names, lifted=lifted, reason=reason)
        envelope = await asyncio.to_thread(self._signing().sign_stop, stop)
        await self._store.write(partial(rollouts.add_stop, stop=stop, envelope=envelope, after=after))
        log.warning("rollouts.stopped", extra={"number": stop.number, "rollouts": stop.rollouts, "lifted": stop.lifted})
        await self.send()
        return stop

    async def next_stop(self, names: list[str], *, lifted: bool, reason: str) -> tuple[Stop, int]:
        """The stop that would be made now, and the number of the one that it follows here; 0: of none.

        Raises:
            RuleRefusalError: as `following`.
        """
        last, heeded = await self._store.read(lambda c: (rollouts.last_stop(c), rollouts.heeded_stops(c)))
        stamp_ms, newest = self._clock(), last[0] if last else None
        heard = _credible(heeded, stamp_ms)
        stop = following(newest, names, lifted=lifted, reason=reason, stamp_ms=stamp_ms, heeded=heard)
        return stop, newest.number if newest else 0

    async def _signed_releases(self, wanted: set[tuple[str, str]]) -> dict[str, PlannedRelease]:
        """What is signed of these (task, release), by release; what nobody has signed is left out."""
        for task, digest in sorted(wanted - self._known.keys()):
            if self._plans is None or not digest:
                continue
            async with self._reading:
                found = await asyncio.to_thread(self._plans.release, task, digest)
            if found is not None:
                counter = found.facts.counter
                self._known[task, digest] = PlannedRelease(task=task, release=digest, size=found.size, counter=counter)
        return {digest: self._known[task, digest] for task, digest in wanted if (task, digest) in self._known}

    def _signing(self) -> ControlSigner:
        if self._signer is None:
            raise unsigned()
        return self._signer

    async def _guarded(self, name: str) -> None:
        """One rollout that cannot be looked at holds up neither the others nor a stop."""
        try:
            await self._step(name)
        except Exception:  # supervised: it is looked at again in the next turn
            log.exception("rollouts.failed", extra={"rollout": name})

    async def _step(self, name: str) -> None:
        found = await self.look(name)
        done = await asyncio.to_thread(step, found.look)  # a large fleet takes a while
        self.last[name] = done
        try:
            if done.members or done.progress != found.kept.progress:
                await self.write(found, done)
            if done.stop and not covers(await self._store.read(rollouts.last_stop), name):
                await self.stop([name], lifted=False, reason=done.progress.what)
        except (OvertakenError, IntegrityError):
            log.info("rollouts.overtaken", extra={"rollout": name})
        except OutriderError as error:
            log.error("rollouts.unsigned", extra={"rollout": name, "reason": error.reason, "what": error.what})

    async def write(self, found: Found, done: Step) -> None:
        """Numbers, signs and stores what a step came to.

        Raises:
            OvertakenError: somebody else was quicker; nothing is stored.
            OutriderError: an order cannot be signed; nothing is stored.
        """
        taken = await self._store.read(partial(rollouts.numbers, devices=[each.device for each in done.orders]))
        heeded = {name: _heeded(seen, self._clock()) for name, seen in found.look.fleet.items()}
        orders = [
            replace(each, number=max(taken[each.device] + 1, heeded.get(each.device, 0) + 1, each.issued_ms))
            for each in done.orders
        ]
        signed = await asyncio.to_thread(self._sign, orders) if orders else []
        given = {each.device: each.number for each in orders}
        members = {
            name: replace(each, order=given[name], first=each.first or given[name]) if name in given else each
            for name, each in done.members.items()
        }
        withdraw = {name: members[name].before for name in done.withdraw}
        change = partial(
            rollouts.change,
            kept=found.kept,
            progress=done.progress,
            members=members,
            signed=signed,
            withdraw=withdraw,
            stamp_ms=self._clock(),
        )
        await self._store.write(change)
        if done.progress.state != found.kept.progress.state:
            facts = {"rollout": found.kept.plan.rollout, "state": done.progress.state, "what": done.progress.what}
            log.warning("rollouts.moved", extra=facts)

    def _sign(self, orders: list[DeviceOrder]) -> list[Signed]:
        signer = self._signing()
        return [Signed(order=each, envelope=signer.sign_order(each)) for each in orders]

    def _read(self, connection: sa.Connection, rollout: str) -> Found:
        kept = rollouts.find(connection, rollout=rollout)
        members = rollouts.members_of(connection, rollout=rollout)
        look = Look(
            plan=kept.plan,
            progress=kept.progress,
            members=members,
            fleet=fleet_of(connection),
            world=self._world(connection, kept),
            asks=kept.asks,
        )
        return Found(kept=kept, look=look)

    def _world(self, connection: sa.Connection, kept: Kept) -> World:
        stamp_ms = self._clock()
        return World(
            now_ms=stamp_ms,
            listening_ms=self._listening_ms or stamp_ms,
            busy=rollouts.busy(connection, but=kept.plan.rollout),
            superseded=rollouts.is_superseded(connection, kept=kept),
        )


def following(
    last: Stop | None, names: list[str], *, lifted: bool, reason: str, stamp_ms: int, heeded: int = 0
) -> Stop:
    """The stop that follows: a device keeps only the newest, so that it names all that is to be stopped.

    Args:
        last: The newest so far.
        names: Rollouts; none: all.
        lifted: Whether they may go on.
        reason: For people.
        stamp_ms: UTC.
        heeded: The highest number that devices say they heed: they hear of no stop below it.

    Raises:
        RuleRefusalError: all are stopped, and some alone are to be let go on: a stop can name what it stops, and no exceptions.
    """
    number = max((last.number if last else 0) + 1, heeded + 1, stamp_ms)
    before = last.rollouts if last and not last.lifted else []
    everything = last is not None and not last.lifted and not last.rollouts
    if lifted and names and everything:
        raise RuleRefusalError(
            f"all updates are stopped, and {names[0]} cannot be let go on alone",
            reason="all_stopped",
            fix="lift that stop: outrider ota stop --lift",
        )
    if lifted:
        left = [name for name in before if names and name not in names]
        return Stop(number=number, rollouts=left, lifted=not left, reason=reason[:512], issued_ms=stamp_ms)
    stopped = [] if everything or not names else list(dict.fromkeys([*before, *names]))
    return Stop(number=number, rollouts=stopped[-1024:], reason=reason[:512], issued_ms=stamp_ms)


def covers(last: tuple[Stop, bytes, bool] | None, rollout: str) -> bool:
    """Whether the newest stop stops that rollout."""
    return last is not None and not last[0].lifted and (not last[0].rollouts or rollout in last[0].rollouts)


def fleet_of(connection: sa.Connection) -> dict[str, Seen]:
    """All devices, by name."""
    return {row["device"]: seen_of(dict(row)) for row in connection.execute(sa.select(devices)).mappings()}


def _heeded(seen: Seen, now_ms: int) -> int:
    """The newest order that a device says it heeds: after a store was lost and the clock set back, it still knows."""
    return _credible((slot.order for slot in seen.slots.values()), now_ms)


def _credible(numbers: Iterable[int], now_ms: int) -> int:
    """The highest that is not too far ahead of the time; 0: none is. One that is was made by nobody who keeps the rules."""
    return max((number for number in numbers if number <= now_ms + NUMBER_AHEAD_MS), default=0)


def unsigned() -> RuleRefusalError:
    """Nothing can be signed here."""
    return RuleRefusalError(
        "this cloud has no control key, and devices follow no order that is not signed",
        reason="no_control_key",
        fix="set up trust in cloud.toml: see outrider ota init",
    )


def _due(kept: Kept, turn: int, now_ms: int) -> bool:
    """Whether a look is worth its while in this turn."""
    about = STATES[kept.progress.state]
    if kept.progress.state in ("scheduled", "running", "rolling_back"):
        return True
    if about.over and now_ms >= kept.plan.expires_ms:
        return False
    return (about.orders or about.watched or kept.progress.state == "halted") and turn % SELDOM == 0
