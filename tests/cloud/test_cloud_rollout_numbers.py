"""What outlives a step of a rollout: numbers that only grow, and the forgetting of a device."""

import asyncio
import time

import pytest
import sqlalchemy as sa
from rollout_office import Office
from rollout_site import FIRST, TASK, plan_now

from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.store import forget, rollouts
from outrider_cloud.store.schema import assignments, orders, rollout_members
from outrider_cloud.store.schema import rollouts as rollout_table
from outrider_wire.messages import Telemetry
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease


async def test_numbers_outlive_the_store(office: Office) -> None:
    """A store that is lost, or restored from a copy, must not give orders that devices take for old ones."""
    running = office.controller()
    plan = await office.begin(running, await office.release(1), devices=2)
    await running.turn()
    before = {row["device"]: row["number"] for row in office.rows(orders)}
    for table in (orders, rollout_members, rollout_table, assignments):
        await office.store.write(lambda c, table=table: c.execute(sa.delete(table)) and None)
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
    running = office.controller()
    for k in range(3):
        told = Telemetry(device=f"cam-{k}", boot_id="b", task=TASK, uptime_s=1, account={"edge": 10})
        await office.fleet.on_telemetry(f"cam-{k}", told)
    await office.begin(running, await office.release(1), devices=3)
    await running.turn()
    assert "cam-1" in office.kept().progress.control
    await office.store.write(lambda c: forget.erase(c, whom=forget.Whom(device="cam-1"), at_ms=1))
    assert {row["device"] for row in office.rows(orders)} == {"cam-0", "cam-2"}
    assert {row["device"] for row in office.rows(rollout_members)} == {"cam-0", "cam-2"}
    progress = office.kept().progress
    assert progress.control and not {"cam-1"} & (progress.control.keys() | progress.since.keys())
    assert "cam-1" not in str(office.rows(rollout_table)), "nowhere in what is stored of the rollout"


async def test_a_step_that_was_about_to_order_a_forgotten_device_is_not_written(office: Office) -> None:
    from outrider_cloud.rollout.controller import step

    running = office.controller()
    await office.begin(running, await office.release(1), devices=3)
    found = await running.look("r-1")
    await office.store.write(lambda c: forget.erase(c, whom=forget.Whom(device="cam-1"), at_ms=1))
    with pytest.raises(rollouts.OvertakenError):
        await running.write(found, step(found.look))
    assert office.rows(rollout_members) == [] and office.rows(orders) == []
    await running.turn()
    assert {row["device"] for row in office.rows(orders)} == {"cam-0", "cam-2"}


async def test_a_step_that_was_under_way_does_not_write_a_forgotten_device_down_again(office: Office) -> None:
    from outrider_cloud.rollout.controller import step

    running = office.controller()
    await office.begin(running, await office.release(1), devices=3)
    await running.turn()
    await office.says("cam-1", state="fetching", offered=office.kept().plan.releases[0].release)
    found = await running.look("r-1")
    await office.store.write(lambda c: forget.erase(c, whom=forget.Whom(device="cam-1"), at_ms=1))
    with pytest.raises(rollouts.OvertakenError):
        await running.write(found, step(found.look))
    assert {row["device"] for row in office.rows(rollout_members)} == {"cam-0", "cam-2"}


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
