"""Emergency stops on a real store: numbered, said to the last, and heard whatever else fails."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from rollout_office import Office, Wire

from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.running import following
from outrider_cloud.store import rollouts
from outrider_wire.errors import RuleRefusalError, UnreachableError
from outrider_wire.messages import Reported
from outrider_wire.rollout import Stop


def test_a_stop_names_all_that_is_stopped_because_only_the_newest_holds() -> None:
    first = following(None, ["a"], lifted=False, reason="x", stamp_ms=1000)
    second = following(first, ["b"], lifted=False, reason="y", stamp_ms=1000)
    assert (second.number > first.number, second.rollouts) == (True, ["a", "b"])
    third = following(second, ["a"], lifted=True, reason="", stamp_ms=1000)
    assert (third.rollouts, third.lifted) == (["b"], False)
    fourth = following(third, ["b"], lifted=True, reason="", stamp_ms=1000)
    assert (fourth.rollouts, fourth.lifted, fourth.number) == ([], True, first.number + 3)
    everything = following(fourth, [], lifted=False, reason="", stamp_ms=5000)
    assert (everything.rollouts, everything.lifted, everything.number) == ([], False, 5000)
    still = following(everything, ["c"], lifted=False, reason="", stamp_ms=5000)
    assert still.rollouts == [] and not still.lifted, "all are stopped, and c with them"


async def test_two_stops_at_once_get_two_numbers(office: Office) -> None:
    one, two = office.controller("one"), office.controller("two")
    done = await asyncio.gather(
        one.stop([], lifted=False, reason="a"), two.stop([], lifted=False, reason="b"), return_exceptions=True
    )
    assert sum(isinstance(each, Stop) for each in done) >= 1
    assert all(isinstance(each, Stop | rollouts.OvertakenError) for each in done)


async def test_a_stop_that_could_not_be_said_is_said_when_the_broker_is_back(office: Office) -> None:
    running = office.controller()
    office.wire.connected = False
    await running.stop([], lifted=False, reason="a fire")
    assert office.wire.stops == []
    office.wire.connected = True
    await office.controller("two").turn()
    device = office.site.device(office.folder / "device")
    device.refresh(office.site.source)
    assert device.open_stop(office.wire.stops[0]).reason == "a fire"


async def test_a_rollout_that_goes_on_while_the_broker_is_away_is_let_go_on_when_it_is_back(office: Office) -> None:
    running = office.controller()
    await office.begin(running, await office.release(1), devices=2)
    await running.turn()
    desk = RolloutDesk(store=office.store, running=running)
    await desk.stop(["r-1"], lifted=False, reason="a look", dry_run=False)
    await desk.act("r-1", "pause", note="", forgive=False, dry_run=False)
    office.wire.connected = False
    await desk.act("r-1", "resume", note="", forgive=False, dry_run=False)
    assert len(office.wire.stops) == 1, "nobody has heard of it yet"
    office.wire.connected = True
    office.wire.said.clear()
    await running.turn()
    device = office.site.device(office.folder / "device")
    device.refresh(office.site.source)
    assert device.open_stop(office.wire.stops[-1]).lifted
    assert office.wire.said[-1] == "stop" and len(office.wire.said) > 1, "the orders are said before it"


async def test_a_broker_that_has_lost_what_it_retained_is_told_the_newest_stop_again(office: Office) -> None:
    running = office.controller()
    await running.stop([], lifted=False, reason="a fire")
    await running.turn()
    assert len(office.wire.stops) == 1
    await running.connected()
    await running.turn()
    assert office.wire.stops[0] == office.wire.stops[1] and len(office.wire.stops) == 2


async def test_the_newest_stop_is_the_last_that_is_said_whoever_else_says_one_meanwhile(office: Office) -> None:
    two = office.controller("two")

    class Slow(Wire):
        """The publish of ``one`` is under way while ``two`` makes and says another stop."""

        async def stop(self, envelope: bytes) -> bool:
            if not self.stops:
                self.stops.append(b"")
                await two.stop([], lifted=False, reason="newer")
            self.stops.append(envelope)
            return True

    slow = office.wire = Slow()
    await office.controller("three", sender=slow).stop([], lifted=True, reason="older")
    device = office.site.device(office.folder / "device")
    device.refresh(office.site.source)
    assert device.open_stop(slow.stops[-1]).reason == "newer"


async def test_a_rollout_that_cannot_be_looked_at_holds_up_neither_others_nor_a_stop(office: Office) -> None:
    running = office.controller()
    await office.begin(running, await office.release(1), devices=2)
    look = running.look

    async def broken(rollout: str, *, returning: bool = False) -> Any:
        if rollout == "r-1":
            raise UnreachableError("the metadata has expired", reason="source_unreachable")
        return await look(rollout, returning=returning)

    running.look = broken  # type: ignore[method-assign]
    await office.store.write(
        partial(
            rollouts.add_stop,
            stop=Stop(number=1, issued_ms=1, reason="a fire"),
            envelope=office.sign_stop(Stop(number=1, issued_ms=1, reason="a fire")),
            after=0,
        )
    )
    await running.turn()
    assert len(office.wire.stops) == 1


async def heeds(office: Office, device: str, number: int) -> None:
    await office.says(device)
    await office.fleet.on_reported(device, Reported(slots=[], stop=number))


async def test_a_stop_follows_what_devices_heed_also_when_somebody_else_made_that(office: Office) -> None:
    """A stolen cloud has made stops with numbers ahead of the time; the next one of ours is newer to every device that heard them."""
    running, now_ms = office.controller(), round(time.time() * 1000)
    for k, number in enumerate((now_ms + 3_600_000, now_ms + 60_000, 2**53 - 1)):
        await heeds(office, f"cam-{k}", number)
    foreseen = await RolloutDesk(store=office.store, running=running).stop([], lifted=False, reason="x", dry_run=True)
    assert foreseen.number == now_ms + 3_600_001
    stop = await running.stop([], lifted=False, reason="x")
    assert stop.number == now_ms + 3_600_001, "and no device that tells of a number far ahead hurts anybody"
    assert (await running.stop([], lifted=True, reason="y")).number == stop.number + 1


def test_one_rollout_alone_is_not_let_go_on_while_all_are_stopped() -> None:
    everything = following(None, [], lifted=False, reason="a fire", stamp_ms=1)
    with pytest.raises(RuleRefusalError) as refused:
        following(everything, ["a"], lifted=True, reason="", stamp_ms=2)
    assert refused.value.reason == "all_stopped"
    assert following(everything, [], lifted=True, reason="", stamp_ms=2).lifted
