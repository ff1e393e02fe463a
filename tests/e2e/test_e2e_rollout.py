"""A rollout over a real broker to real agents, with real models and real signatures: by site, to all, and back."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cloud_service import HeldModel, eventually, get, make_service, ready, request
from mosquitto import AnyBroker
from rollout_site import TASK, act, cloud_file, make_site, plan_now, publish

from outrider_cloud.service import CloudService
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_wire.fitness import Requires
from outrider_wire.rollout import Group

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

EDGE = """\
device = "{name}"
data_dir = "data"
[broker]
url = "{broker}"
[api]
port = 0
[[tasks]]
file = "{folder}/task.toml"
bundle = "{folder}/bundle-1"
[updates]
root = "root.json"
probation_answers = 1
probation_s = 1.0
[telemetry]
every_s = 1.0
[labels]
site = "{site}"
"""


def edge_file(folder: Path, broker: str, name: str, site: str, root: bytes) -> Path:
    """A device's configuration; it was provisioned with the first root."""
    place = folder / name
    place.mkdir()
    (place / "root.json").write_bytes(root)
    (place / "edge.toml").write_text(EDGE.format(name=name, broker=broker, folder=folder, site=site))
    return place / "edge.toml"


async def rollout_is(service: CloudService, state: str, within_s: float = 90) -> Any:
    seen: list[Any] = []

    async def is_it() -> bool:
        seen.append((await get(service, "/v1/rollouts/r-1"))[1])
        return bool(seen[-1]["state"] == state)

    try:
        await eventually(is_it, within_s)
    except TimeoutError:
        raise AssertionError((seen[-1], (await get(service, "/v1/devices"))[1])) from None
    return seen[-1]


async def running(service: CloudService) -> set[str]:
    return {row["slots"][TASK]["running"] for row in (await get(service, "/v1/devices"))[1]["devices"]}


async def test_agents_take_a_release_site_by_site_and_go_back(own_broker: AnyBroker, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(make_service(cloud_file(tmp_path, own_broker.url, site), HeldModel()))
        await ready(service)
        older = await publish(service, site, tmp_path, 1)
        newer = await publish(service, site, tmp_path, 2, requires=Requires(agent="0.0.1"))
        for k, where in enumerate(("berlin", "berlin", "paris")):
            config = load_edge_config(edge_file(tmp_path, own_broker.url, f"cam-{k}", where, site.root))
            await stack.enter_async_context(serving(config))

        async def all_there() -> bool:
            rows = (await get(service, "/v1/devices"))[1]["devices"]
            return sum(row["online"] and TASK in row["slots"] and "site" in row["capabilities"] for row in rows) == 3

        await eventually(all_there, 60)
        groups = [Group(name="berlin", facts={"site": "berlin"}, minimum=2), Group(name="all", minimum=1)]
        plan = plan_now(newer, groups=groups)
        foretold = (await request(service, "POST", "/v1/rollouts/forecast", body={"plan": plain(plan)}))[1]
        assert [stage["devices"] for stage in foretold["stages"]] == [2, 1]
        assert 0 < foretold["stages"][1]["bytes"] < foretold["stages"][0]["bytes"]
        site.plan(plan, task=TASK)
        assert (await request(service, "POST", "/v1/rollouts", body={"task": TASK, "rollout": "r-1"}))[0] == 201
        shown = await rollout_is(service, "finished")
        assert shown["members"] == {"committed": 3} and await running(service) == {newer.release}
        assert [group["members"] for group in shown["groups"]] == [{"committed": 2}, {"committed": 1}]

        assert (await request(service, "POST", "/v1/stops", body={"rollouts": ["r-1"], "reason": "a drill"}))[0] == 200
        assert (await act(service, "r-1", "rollback"))[0] == 200
        await rollout_is(service, "rolled_back")
        assert await running(service) == {older.release}


def plain(plan: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(plan)
