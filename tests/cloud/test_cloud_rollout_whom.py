"""Whom a rollout orders, and what it tells them: on a real store with real keys."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from rollout_office import Office
from rollout_site import FIRST, TASK, plan_now, sign_release
from trust_world import CANARY, Site

from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.store import release_rows
from outrider_cloud.store.schema import assignments, orders, rollout_members
from outrider_wire.errors import CallerUnknownError, OutriderError, PeerMessageError, RuleRefusalError
from outrider_wire.messages import Presence, Reported, SlotReport, Telemetry
from outrider_wire.rollout import Group


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
