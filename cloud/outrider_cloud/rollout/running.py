"""Runs the rollouts: reads what is known, asks the controller, signs, makes it durable, then says it. Decides nothing.

Whatever ends it in between loses nothing: an order is stored, signed, before it is said, and what the broker has not taken is said again.
Two of these on one store do no harm: of two steps from the same state, one is written.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError

from outrider_cloud.clock import now_ms
from outrider_cloud.rollout.controller import Step, step
from outrider_cloud.rollout.ports import ControlSigner, Sender
from outrider_cloud.rollout.reading import seen_of
from outrider_cloud.rollout.records import Look, Member, Seen, World
from outrider_cloud.rollout.states import STATES
from outrider_cloud.seldom import Seldom
from outrider_cloud.store import rollouts
from outrider_cloud.store.rollouts import Kept, OvertakenError, Signed
from outrider_cloud.store.schema import devices
from outrider_cloud.store.store import Store
from outrider_wire.errors import OutriderError, PeerError, RuleRefusalError, UnreachableError
from outrider_wire.rollout import DeviceOrder, Stop

log = logging.getLogger(__name__)
log.addFilter(Seldom())

EVERY_S = 2.0
SENT_AT_ONCE = 256
"""Orders that are said in one turn; the others in the next."""


class Found(Struct, kw_only=True, frozen=True):
    """What was read for one look."""

    kept: Kept
    look: Look


class Rollouts:
    """The loop over all rollouts that are not history."""

    def __init__(
        self, *, store: Store, signer: ControlSigner | None, sender: Sender, clock: Callable[[], int] = now_ms
    ) -> None:
        self._store = store
        self._signer = signer
        self._sender = sender
        self._clock = clock
        self._listening_ms = 0
        self._turn = asyncio.Lock()
        self.last: dict[str, Step] = {}
        """What the newest look at each came to: for people."""

    async def run(self, every_s: float = EVERY_S) -> None:
        """Turn by turn, until it is cancelled."""
        while True:
            try:
                await self.turn()
            except Exception:  # supervised: what fails now is looked at again in the next turn
                log.exception("rollouts.failed")
            await asyncio.sleep(every_s)

    async def turn(self) -> None:
        """Looks at every rollout once, and says what is unsaid."""
        async with self._turn:
            if not self._sender.connected:
                self._listening_ms = 0
            elif not self._listening_ms:
                self._listening_ms = self._clock()
            for kept in await self._store.read(rollouts.all_of):
                if _alive(kept) and self._signer is not None:
                    await self._step(kept.plan.rollout)
            await self.send()

    async def look(self, rollout: str) -> Found:
        """Reads one rollout and the fleet."""
        return await self._store.read(partial(self._read, rollout=rollout))

    async def send(self) -> None:
        """Says the newest stop, then orders, that the broker has not taken."""
        last = await self._store.read(rollouts.last_stop)
        try:
            if last and not last[2] and await self._sender.stop(last[1]):
                await self._store.write(partial(rollouts.stop_was_sent, number=last[0].number))
            for device, number in (await self._store.read(partial(rollouts.unsent, most=SENT_AT_ONCE))).items():
                envelope = await self._store.read(partial(rollouts.order_to, device=device))
                if await self._sender.offer(device):
                    said = partial(rollouts.was_sent, device=device, number=number, envelope=envelope)
                    await self._store.write(said)
        except (UnreachableError, PeerError) as error:
            log.warning("rollouts.unsaid", extra={"reason": error.reason})

    async def stop(self, names: list[str], *, lifted: bool, reason: str) -> Stop:
        """Signs, stores and says a stop: of these rollouts beside those that are stopped already, or (lifted) of these no more.

        Raises:
            OutriderError: it cannot be signed; nothing was said.
            OvertakenError: another one was made meanwhile.
        """
        last = await self._store.read(rollouts.last_stop)
        stop = following(last[0] if last else None, names, lifted=lifted, reason=reason, stamp_ms=self._clock())
        envelope = await asyncio.to_thread(self._signing().sign_stop, stop)
        after = last[0].number if last else 0
        await self._store.write(partial(rollouts.add_stop, stop=stop, envelope=envelope, after=after))
        log.warning("rollouts.stopped", extra={"number": stop.number, "rollouts": stop.rollouts, "lifted": stop.lifted})
        await self.send()
        return stop

    def _signing(self) -> ControlSigner:
        if self._signer is None:
            raise unsigned()
        return self._signer

    async def _step(self, name: str) -> None:
        found = await self.look(name)
        done = step(found.look)
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
        orders = [replace(each, number=max(taken[each.device] + 1, each.issued_ms)) for each in done.orders]
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
            world=self.world(connection, kept, members),
            asks=kept.asks,
        )
        return Found(kept=kept, look=look)

    def world(self, connection: sa.Connection, kept: Kept, members: Mapping[str, Member]) -> World:
        """What else a look depends on."""
        stamp_ms = self._clock()
        returns = kept.progress.state == "rolling_back"
        return World(
            now_ms=stamp_ms,
            listening_ms=self._listening_ms or stamp_ms,
            busy=rollouts.busy(connection, but=kept.plan.rollout),
            superseded=rollouts.is_superseded(connection, kept=kept),
            known=rollouts.known_releases(connection) if returns and members else {},
        )


def following(last: Stop | None, names: list[str], *, lifted: bool, reason: str, stamp_ms: int) -> Stop:
    """The stop that follows: a device keeps only the newest, so that it names all that is to be stopped.

    Args:
        last: The newest so far.
        names: Rollouts; none: all.
        lifted: Whether they may go on.
        reason: For people.
        stamp_ms: UTC.
    """
    number = max((last.number if last else 0) + 1, stamp_ms)
    before = last.rollouts if last and not last.lifted else []
    everything = last is not None and not last.lifted and not last.rollouts
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


def unsigned() -> RuleRefusalError:
    """Nothing can be signed here."""
    return RuleRefusalError(
        "this cloud has no control key, and devices follow no order that is not signed",
        reason="no_control_key",
        fix="set up trust in cloud.toml: see outrider ota init",
    )


def _alive(kept: Kept) -> bool:
    """Whether a look can still change it."""
    about = STATES[kept.progress.state]
    return about.orders or about.watched or kept.progress.state in ("scheduled", "halted", "rolling_back")
