"""Rollouts on a running cloud, a real broker, a real store and real signatures: stage by stage, halted, stopped in seconds, taken back."""

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cloud_service import HeldModel, eventually, get, make_service, ready, request
from mosquitto import AnyBroker
from rollout_site import FIRST, TASK, Obedient, act, cloud_file, make_site, plan_now, publish
from trust_world import Site

from outrider_cloud.service import CloudService
from outrider_wire.fitness import Requires
from outrider_wire.rollout import Group, Thresholds

pytestmark = [pytest.mark.broker]


@pytest.fixture
def broker(own_broker: AnyBroker) -> str:
    """One for each test: what is retained for all devices is of that test alone."""
    return own_broker.url


HALVES = [Group(name="half", share=0.5, minimum=1), Group(name="all", minimum=1)]


async def state_of(service: CloudService, rollout: str = "r-1") -> str:
    return str((await get(service, f"/v1/rollouts/{rollout}"))[1]["state"])


async def becomes(service: CloudService, state: str, rollout: str = "r-1", within_s: float = 40) -> Any:
    async def is_it() -> bool:
        return await state_of(service, rollout) == state

    try:
        await eventually(is_it, within_s)
    except TimeoutError:
        raise AssertionError((await get(service, f"/v1/rollouts/{rollout}"))[1]) from None
    return (await get(service, f"/v1/rollouts/{rollout}"))[1]


async def known(service: CloudService, count: int) -> None:
    async def all_there() -> bool:
        rows = (await get(service, "/v1/devices"))[1]["devices"]
        return sum(TASK in row["slots"] for row in rows) >= count

    await eventually(all_there)


async def create(service: CloudService, rollout: str = "r-1") -> tuple[int, Any]:
    return await request(service, "POST", "/v1/rollouts", body={"task": TASK, "rollout": rollout})


async def fleet(
    stack: AsyncExitStack, broker: str, site: Site, folder: Path, count: int, **more: Any
) -> list[Obedient]:
    return [await stack.enter_async_context(Obedient(broker, f"roll-{k}", site, folder, **more)) for k in range(count)]


async def test_a_release_goes_to_all_is_stopped_in_seconds_and_taken_back(broker: str, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    async with make_service(cloud_file(tmp_path, broker, site), HeldModel()) as service, AsyncExitStack() as stack:
        await ready(service)
        older = await publish(service, site, tmp_path, 1)
        newer = await publish(service, site, tmp_path, 2)
        devices = await fleet(stack, broker, site, tmp_path, 6)
        await known(service, 6)
        site.plan(plan_now(newer, groups=HALVES, rollback_to=[older]), task=TASK)
        status, made = await create(service)
        assert (status, made["state"], made["stages"]) == (201, "scheduled", 2)
        shown = await becomes(service, "finished")
        assert shown["members"] == {"committed": 6}
        assert {device.running for device in devices} == {newer.release}
        assert all(not device.refused and len(device.orders) == 1 for device in devices)
        assert [event["what"] for event in shown["events"]][:2] == ["stage half begins", "stage all begins"]

        began = time.monotonic()
        status, said = await request(service, "POST", "/v1/stops", body={"rollouts": ["r-1"], "reason": "a fire"})
        assert status == 200 and said["stop"]["rollouts"] == ["r-1"]
        slowest = max([await device.hears_stop() for device in devices]) - began
        print(f"stop reached {len(devices)} devices in {slowest * 1000:.0f} ms")
        assert slowest < 5.0
        assert (await get(service, "/v1/rollouts/r-1"))[1]["stopped"]
        late = await stack.enter_async_context(Obedient(broker, "late", site, tmp_path))
        await late.hears_stop()  # retained: who comes later hears of it too

        assert (await act(service, "r-1", "rollback"))[0] == 200
        await becomes(service, "rolled_back")
        assert {device.running for device in devices} == {older.release}
        assert {device.orders[-1].kind for device in devices} == {"rollback"}
        assert devices[0].stops[-1][0].lifted, "a rollback is not held by the rollout's own stop"
        numbers = [order.number for order in devices[0].orders]
        assert numbers == sorted(set(numbers))


@pytest.mark.slow
async def test_a_bad_release_is_halted_and_who_is_mid_way_is_stopped(broker: str, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    async with make_service(cloud_file(tmp_path, broker, site), HeldModel()) as service, AsyncExitStack() as stack:
        await ready(service)
        bad = await publish(service, site, tmp_path, 1)
        devices = await fleet(stack, broker, site, tmp_path, 8, takes=lambda _: "refused")
        await known(service, 8)
        groups = [Group(name="some", share=0.7, minimum=1), Group(name="all", minimum=1)]
        site.plan(plan_now(bad, groups=groups, thresholds=Thresholds(failures=0.05)), task=TASK)
        assert (await create(service))[0] == 201
        await becomes(service, "halted")
        assert all([await device.hears_stop() for device in devices])
        shown = (await get(service, "/v1/rollouts/r-1"))[1]
        assert (shown["reason"], shown["stage"], shown["stopped"]) == ("failures", 0, True)
        assert next(each for each in shown["figures"] if each["name"] == "failures")["says"] == "exceeded"
        assert {device.running for device in devices} == {FIRST}
        status, said = await act(service, "r-1", "resume")
        assert (status, said["error"]["reason"]) == (409, "halted_by_threshold")
        status, said = await act(service, "r-1", "approve")
        assert (status, said["error"]["reason"]) == (409, "wrong_state")
        status, would = await act(service, "r-1", "resume", forgive=True, dry_run=True)
        assert (status, would["reason"], await state_of(service)) == (200, "too_few", "halted")
        assert (await act(service, "r-1", "abort"))[1]["state"] == "aborted"


@pytest.mark.slow
async def test_it_goes_on_where_it_was_after_a_restart(broker: str, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    path = cloud_file(tmp_path, broker, site)
    async with AsyncExitStack() as stack:
        async with make_service(path, HeldModel()) as service:
            await ready(service)
            new = await publish(service, site, tmp_path, 1)
            devices = await fleet(stack, broker, site, tmp_path, 6)
            await known(service, 6)
            site.plan(plan_now(new, groups=HALVES, approve_each=True), task=TASK)
            assert (await create(service))[0] == 201
            shown = await becomes(service, "awaiting_approval")
            half = shown["members"]["committed"]
            assert 0 < half < 6
        async with make_service(path, HeldModel()) as service:
            await ready(service)
            assert await state_of(service) == "awaiting_approval"
            assert (await act(service, "r-1", "approve", note="looks good"))[0] == 200
            shown = await becomes(service, "finished")
            assert shown["members"] == {"committed": 6}
            assert any("looks good" in event["what"] for event in shown["events"])
        assert all(len(device.orders) == 1 for device in devices), "nobody is ordered twice"


async def test_what_cannot_be_begun_is_refused_with_the_reason(broker: str, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    async with make_service(cloud_file(tmp_path, broker, site), HeldModel()) as service, AsyncExitStack() as stack:
        await ready(service)
        assert (await create(service, "nobody-signed-it"))[1]["error"]["reason"] == "unknown_plan"
        release = await publish(service, site, tmp_path, 1, requires=Requires(memory_mb=4096))
        unknown = site.release(7, task=TASK)
        site.plan(plan_now(unknown, rollout="r-unknown", groups=HALVES), task=TASK)
        assert (await create(service, "r-unknown"))[1]["error"]["reason"] == "unknown_release"
        late = plan_now(release, rollout="r-late", groups=HALVES, start_ms=1, expires_ms=2)
        site.plan(late, task=TASK)
        status, said = await create(service, "r-late")
        assert (status, said["error"]["reason"]) == (409, "plan_expired")
        await fleet(stack, broker, site, tmp_path, 2)
        await known(service, 2)
        site.plan(plan_now(release, groups=HALVES), task=TASK)
        assert (await create(service))[0] == 201
        assert (await create(service))[1]["error"]["reason"] == "rollout_exists"
        site.plan(plan_now(release, rollout="r-2", groups=HALVES), task=TASK)
        assert (await create(service, "r-2"))[1]["error"]["reason"] == "rollout_overlaps"
        shown = await becomes(service, "undecided")
        assert (shown["reason"], shown["members"]) == ("too_few", {})
        assert shown["blockers"] == {"too_little_memory": len(shown["blocked"])}, "before the first byte"
        assert (await get(service, "/v1/rollouts/r-9"))[0] == 404
        assert (await request(service, "POST", "/v1/stops", body={"rollouts": ["r-9"]}))[0] == 404


async def test_a_cloud_without_a_control_key_begins_nothing(broker: str, tmp_path: Path) -> None:
    from cloud_service import write_config

    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        status, said = await create(service)
        assert (status, said["error"]["reason"]) == (409, "no_control_key")
        status, said = await request(service, "POST", "/v1/stops", body={})
        assert (status, said["error"]["reason"]) == (409, "no_control_key")
