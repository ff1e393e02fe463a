"""The loop over rollouts on a real store with real keys: two at once, kills in between, a broker that is away, and who may say what."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rollout_office import Office, Wire
from rollout_site import FIRST, TASK, plan_now, sign_release
from trust_world import CANARY, Site

from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.running import following
from outrider_cloud.store import release_rows, rollouts
from outrider_cloud.store.schema import assignments, orders, rollout_members
from outrider_cloud.store.schema import rollouts as rollout_table
from outrider_cloud.store.store import Store
from outrider_wire.errors import CallerUnknownError, OutriderError, PeerMessageError, RuleRefusalError, UnreachableError
from outrider_wire.messages import Presence, Reported, SlotReport, Telemetry
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease, Stop


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(url=f"sqlite:///{tmp_path / 'cloud.db'}")
    made.open()
    yield made
    made.close()


@pytest.fixture
async def office(tmp_path: Path, store: Store) -> AsyncIterator[Office]:
    yield Office(tmp_path, store)


async def test_an_order_is_stored_signed_before_it_is_said_and_is_for_that_device_alone(office: Office) -> None:
    running = office.controller()
    plan = await office.begin(running, await office.release(1))
    office.wire.connected = False
    await running.turn()
    device = office.site.device(office.folder / "device")
    device.refresh(office.site.source)
    order = device.open_order(office.envelope("cam-3"), device="cam-3")
    assert (order.rollout, order.stage, order.releases) == (plan.rollout, 0, plan.releases)
    with pytest.raises(OutriderError) as refused:
        device.open_order(office.envelope("cam-3"), device="cam-4")
    assert refused.value.reason == "order_other_device"
    assert office.wire.offered == [] and not any(row["sent"] for row in office.rows(orders))
    office.wire.connected = True
    await running.turn()
    assert sorted(office.wire.offered) == [f"cam-{k}" for k in range(6)]
    assert all(row["sent"] for row in office.rows(orders))
    wanted = {row["device"]: row["release"] for row in office.rows(assignments)}
    assert set(wanted.values()) == {plan.releases[0].release}, "its files may be pulled"


async def test_a_process_that_ends_between_writing_and_saying_loses_nothing(office: Office) -> None:
    running = office.controller()
    await office.begin(running, await office.release(1))
    office.wire.connected = False
    await running.turn()
    before = office.rows(orders)
    office.wire.connected = True
    again = office.controller("two")  # a new process on the same store
    await again.turn()
    assert sorted(office.wire.offered) == [f"cam-{k}" for k in range(6)]
    assert [row["number"] for row in office.rows(orders)] == [row["number"] for row in before], (
        "nothing is ordered twice"
    )


async def test_of_two_controllers_that_step_at_once_one_writes(office: Office) -> None:
    one, two = office.controller("one"), office.controller("two")
    await office.begin(one, await office.release(1), devices=20)
    for _ in range(4):
        await asyncio.gather(one.turn(), two.turn())
    rows = office.rows(orders)
    assert len(rows) == 20 and office.kept().progress.state == "running"
    members = {row["device"]: row["member"] for row in office.rows(rollout_members)}
    assert all(members[row["device"]]["order"] == row["number"] for row in rows), (
        "the order said is the one that is known"
    )


async def test_the_second_of_two_steps_from_one_state_is_not_written(office: Office) -> None:
    from outrider_cloud.rollout.controller import step

    one, two = office.controller("one"), office.controller("two")
    await office.begin(one, await office.release(1))
    first, second = await one.look("r-1"), await two.look("r-1")
    await one.write(first, step(first.look))
    before = office.rows(orders)
    with pytest.raises(rollouts.OvertakenError):
        await two.write(second, step(second.look))
    assert office.rows(orders) == before


async def test_an_order_that_is_older_than_the_one_there_is_not_stored(office: Office) -> None:
    running = office.controller()
    await office.begin(running, await office.release(1), devices=1)
    await running.turn()
    row = office.rows(orders)[0]
    found = await running.look("r-1")
    order = DeviceOrder(
        device="cam-0", number=row["number"], rollout="r-1", stage=0, releases=found.kept.plan.releases, issued_ms=1, expires_ms=2
    )  # fmt: skip
    change = partial(
        rollouts.change, kept=found.kept, progress=found.kept.progress, members={},
        signed=[rollouts.Signed(order=order, envelope=b"older")], withdraw={}, stamp_ms=1,
    )  # fmt: skip
    with pytest.raises(rollouts.OvertakenError):
        await office.store.write(change)
    assert office.rows(orders)[0]["envelope"] == row["envelope"]


async def test_a_key_that_cannot_be_reached_orders_nobody_and_is_tried_again(office: Office) -> None:
    class Away:
        def sign_order(self, order: DeviceOrder) -> bytes:
            raise UnreachableError("the key service does not answer", reason="key_service")

        def sign_stop(self, stop: Stop) -> bytes:
            raise UnreachableError("the key service does not answer", reason="key_service")

    running = office.controller()
    await office.begin(running, await office.release(1))
    await office.controller("away", signer=Away()).turn()
    assert (
        office.rows(orders) == [] and office.rows(rollout_members) == [] and office.kept().progress.state == "scheduled"
    )
    await running.turn()
    assert len(office.rows(orders)) == 6


async def test_a_pause_takes_orders_back_and_files_with_them(office: Office) -> None:
    running = office.controller()
    await office.begin(running, await office.release(1))
    await running.turn()
    desk = RolloutDesk(store=office.store, running=running)
    office.wire.offered.clear()
    await desk.act("r-1", "pause", note="", forgive=False, dry_run=False)
    assert {row["envelope"] for row in office.rows(orders)} == {b""} and len(office.wire.offered) == 6
    assert office.rows(assignments) == [], "what they ran before is not here, so nothing is assigned"
    await desk.act("r-1", "resume", note="", forgive=False, dry_run=False)
    await running.turn()
    assert all(row["envelope"] for row in office.rows(orders))


async def test_a_device_speaks_for_itself_alone(office: Office) -> None:
    running = office.controller()
    release = await office.release(1)
    await office.begin(running, release)
    await running.turn()
    with pytest.raises(PeerMessageError) as refused:
        await office.fleet.on_presence("cam-0", Presence(device="cam-1", online=False, boot_id="b"))
    assert refused.value.reason == "wrong_device"
    with pytest.raises(PeerMessageError):
        await office.fleet.on_telemetry(
            "cam-0", Telemetry(device="cam-1", boot_id="b", task=TASK, uptime_s=1, account={})
        )
    await office.says("cam-0", running=release.release)
    await running.turn()
    states = {row["device"]: row["state"] for row in office.rows(rollout_members)}
    assert states == {"cam-0": "committed"} | {f"cam-{k}": "waiting" for k in range(1, 6)}


async def test_several_rollouts_at_once_share_no_device(office: Office) -> None:
    office.site = make_two_tasks(office.folder / "two")
    running = office.controller()
    release = await office.release(1)
    await office.begin(running, release)
    other = sign_release(office.site, b"sounds 1", 1, task="sounds")
    row = {"digest": other.release, "task": "sounds", "version": "1.1", "size": other.size}
    row |= {"parent": None, "certificate": "", "created_ms": 1}
    await office.store.write(partial(release_rows.add, row=row, files={other.release: other.size}))
    for k in range(6):
        slots = [SlotReport(task=task, running=FIRST, version="1", slot="a", state="idle") for task in (TASK, "sounds")]
        await office.fleet.on_reported(f"cam-{k}", Reported(slots=slots))
    plan = plan_now(other, rollout="r-2", groups=[Group(name="all")])
    office.site.plan(plan, task="sounds")
    desk = RolloutDesk(store=office.store, running=running)
    await desk.create("sounds", "r-2")
    await running.turn()
    assert {row["rollout"] for row in office.rows(orders)} in ({"r-1"}, {"r-2"})
    shown = [await desk.one("r-1"), await desk.one("r-2")]
    assert sorted(each.blockers.get("busy_elsewhere", 0) for each in shown) == [0, 6]


def make_two_tasks(folder: Path) -> Site:
    import time

    from trust_world import Clock

    return Site(folder, tasks=(TASK, "sounds"), clock=Clock(time.time()))


async def test_an_automatic_release_goes_to_the_canary_group_and_no_further(office: Office) -> None:
    running = office.controller()
    desk = RolloutDesk(store=office.store, running=running)
    release = office.site.release(1, task=TASK, automatic=True)
    row = {"digest": release.release, "task": TASK, "version": "1.1", "size": release.size}
    row |= {"parent": None, "certificate": "", "created_ms": 1}
    await office.store.write(partial(release_rows.add, row=row, files={release.release: release.size}))
    await asyncio.gather(*(office.says(f"cam-{k}") for k in range(300)))
    beyond = plan_now(release, rollout="r-all", salt=CANARY.salt, groups=[Group(name="canary", share=1.0)])
    office.site.plan(beyond, task=TASK, automatic=True)
    with pytest.raises(OutriderError) as refused:
        await desk.create(TASK, "r-all")
    assert refused.value.reason == "plan_beyond_canary"
    office.site.plan(
        plan_now(release, rollout="r-auto", salt=CANARY.salt, groups=[CANARY.group]), task=TASK, automatic=True
    )
    made = await desk.create(TASK, "r-auto")
    assert made.automatic
    await running.turn()
    assert 0 < len(office.rows(orders)) < 15, "1 % of 300 devices, by hash"


async def test_a_rollback_names_what_is_signed_of_what_ran_before(office: Office) -> None:
    running = office.controller()
    older, newer = await office.release(1), await office.release(2)
    await office.begin(running, newer, devices=0)
    await office.says("cam-0", running=older.release)
    await office.says("cam-1", running=FIRST)  # a factory bundle: nobody has signed it
    await running.turn()
    for k in range(2):
        await office.says(f"cam-{k}", running=newer.release)
    await running.turn()
    desk = RolloutDesk(store=office.store, running=running)
    await desk.act("r-1", "rollback", note="", forgive=False, dry_run=False)
    device = office.site.device(office.folder / "device")
    device.refresh(office.site.source)
    back = device.open_order(office.envelope("cam-0"), device="cam-0")
    assert (back.kind, back.releases) == ("rollback", [older])
    assert device.open_order(office.envelope("cam-1"), device="cam-1").kind == "update"
    assert "1 cannot be ordered back" in office.kept().progress.what


async def test_what_is_not_there_is_said(office: Office) -> None:
    desk = RolloutDesk(store=office.store, running=office.controller())
    with pytest.raises(CallerUnknownError, match="no rollout r-9"):
        await desk.act("r-9", "pause", note="", forgive=False, dry_run=False)
    with pytest.raises(CallerUnknownError):
        await desk.create(TASK, "r-9")
    unsigned = RolloutDesk(store=office.store, running=office.controller("none", signer=None, plans=None))
    with pytest.raises(RuleRefusalError, match="no control key"):
        await unsigned.create(TASK, "r-1")


# --- stops


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


async def test_numbers_outlive_the_store(office: Office, tmp_path: Path) -> None:
    """A store that is lost, or restored from a copy, must not give orders that devices take for old ones."""
    running = office.controller()
    plan = await office.begin(running, await office.release(1), devices=2)
    await running.turn()
    before = {row["device"]: row["number"] for row in office.rows(orders)}
    with sqlite3.connect(tmp_path / "cloud.db") as connection:
        for table in ("orders", "rollout_members", "rollouts", "assignments"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608  names of our own tables
    connection.close()
    await asyncio.sleep(0.002)
    await RolloutDesk(store=office.store, running=running).create(TASK, plan.rollout)
    await running.turn()
    assert all(row["number"] > before[row["device"]] for row in office.rows(orders))


async def test_an_order_follows_what_the_device_heeds_also_when_store_and_clock_went_back(office: Office) -> None:
    running = office.controller()
    release = await office.release(1)
    ahead = round(time.time() * 1000) + 3_600_000
    await office.says("cam-0", order=ahead)
    await office.says("cam-1", order=2**53 - 1)  # it says what it likes, and hurts nobody
    site_plan = plan_now(release, groups=[Group(name="all")])
    office.site.plan(site_plan, task=TASK)
    await RolloutDesk(store=office.store, running=running).create(TASK, "r-1")
    await running.turn()
    numbers = {row["device"]: row["number"] for row in office.rows(orders)}
    assert numbers["cam-0"] == ahead + 1
    assert numbers["cam-1"] < ahead


async def test_what_is_forgotten_of_a_device_is_forgotten_here_too(office: Office) -> None:
    from outrider_cloud.store import forget

    running = office.controller()
    for k in range(3):
        told = Telemetry(device=f"cam-{k}", boot_id="b", task=TASK, uptime_s=1, account={"edge": 10})
        await office.fleet.on_telemetry(f"cam-{k}", told)
    await office.begin(running, await office.release(1), devices=3)
    await running.turn()
    assert "cam-1" in office.kept().progress.control
    await office.store.write(lambda c: forget.erase(c, whom=forget.Whom(device="cam-1")))
    assert {row["device"] for row in office.rows(orders)} == {"cam-0", "cam-2"}
    assert {row["device"] for row in office.rows(rollout_members)} == {"cam-0", "cam-2"}
    progress = office.kept().progress
    assert progress.control and not {"cam-1"} & (progress.control.keys() | progress.since.keys())
    assert "cam-1" not in str(office.rows(rollout_table)), "nowhere in what is stored of the rollout"


async def test_a_step_that_was_under_way_does_not_write_a_forgotten_device_down_again(office: Office) -> None:
    from outrider_cloud.rollout.controller import step
    from outrider_cloud.store import forget

    running = office.controller()
    await office.begin(running, await office.release(1), devices=3)
    await running.turn()
    await office.says("cam-1", state="fetching", offered=office.kept().plan.releases[0].release)
    found = await running.look("r-1")
    await office.store.write(lambda c: forget.erase(c, whom=forget.Whom(device="cam-1")))
    with pytest.raises(rollouts.OvertakenError):
        await running.write(found, step(found.look))
    assert {row["device"] for row in office.rows(rollout_members)} == {"cam-0", "cam-2"}


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


def test_one_rollout_alone_is_not_let_go_on_while_all_are_stopped() -> None:
    everything = following(None, [], lifted=False, reason="a fire", stamp_ms=1)
    with pytest.raises(RuleRefusalError) as refused:
        following(everything, ["a"], lifted=True, reason="", stamp_ms=2)
    assert refused.value.reason == "all_stopped"
    assert following(everything, [], lifted=True, reason="", stamp_ms=2).lifted


def test_an_order_is_signed_without_reading_the_delegation_again(office: Office) -> None:
    control, read = office.control, []
    reading = office.site.repository.read
    office.site.repository.read = lambda *what: (read.append(what), reading(*what))[1]  # type: ignore[method-assign]
    order = DeviceOrder(
        device="cam-0", number=1, rollout="r-1", stage=0, issued_ms=1, expires_ms=2,
        releases=[PlannedRelease(task=TASK, release=FIRST, size=1, counter=1)],
    )  # fmt: skip
    for _ in range(3):
        control.sign_order(order)
    assert len(read) == 1
