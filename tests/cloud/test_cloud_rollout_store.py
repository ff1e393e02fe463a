"""The loop over rollouts on a real store with real keys: two at once, kills in between, a broker that is away."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from postgres_server import PASSWORD, Postgres
from rollout_office import Office

from outrider_cloud.rollout.controller import step
from outrider_cloud.store import rollouts
from outrider_cloud.store.schema import assignments, orders, rollout_members
from outrider_cloud.store.store import Store
from outrider_wire.errors import OutriderError, UnreachableError
from outrider_wire.rollout import DeviceOrder, Stop


@pytest.mark.parametrize("store", ["file", "server"], indirect=True)
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


async def test_of_two_controllers_on_two_machines_one_writes(postgres: Postgres, url: str, tmp_path: Path) -> None:
    machines = [Store(url=url, password=PASSWORD) for _ in range(2)]
    for each in machines:
        each.open()
    office = Office(tmp_path, machines[0])
    one, two = office.controller("one"), office.controller("two", store=machines[1])
    await office.begin(one, await office.release(1), devices=20)
    found = [await each.look("r-1") for each in (one, two)]
    done = await asyncio.gather(
        *(each.write(look, step(look.look)) for each, look in zip((one, two), found, strict=True)),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in done) == ["NoneType", "OvertakenError"]
    for _ in range(3):
        await asyncio.gather(one.turn(), two.turn())
    rows = office.rows(orders)
    members = {row["device"]: row["member"] for row in office.rows(rollout_members)}
    assert len(rows) == 20 and all(members[row["device"]]["order"] == row["number"] for row in rows)
    for each in machines:
        each.close()


async def test_the_second_of_two_steps_from_one_state_is_not_written(office: Office) -> None:
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
