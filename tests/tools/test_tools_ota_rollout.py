"""``outrider ota rollout`` and its kin, run as an engineer would, against a running cloud with real signatures."""

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cloud_service import HeldModel, eventually, get, make_service, ready, request
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mosquitto import AnyBroker
from rollout_site import TASK, Obedient, cloud_file, make_site, plan_now, publish
from trust_world import Site

from outrider import rollouts
from outrider_cloud.service import CloudService
from outrider_cloud.store.schema import releases
from outrider_wire.errors import CallerInputError
from outrider_wire.rollout import Group, PlannedRelease, WeeklyWindow
from outrider_wire.rollout_text import freeze_text, group_text, parse_freeze, parse_groups

Ran = Any
Run = Callable[..., Ran]
"""As the fixture ``outrider`` of this folder gives it."""


class Lab:
    """A cloud, its fleet, and an engineer with a working copy and the task's key."""

    def __init__(self, service: CloudService, site: Site, work: Path, outrider: Run) -> None:
        self.service, self.site, self.work = service, site, work
        self._outrider = outrider

    async def ota(self, *arguments: object) -> Ran:
        """The command, told where everything is."""
        variables = {"OUTRIDER_OTA_CLOUD": self.service.url, "OUTRIDER_OTA_REPOSITORY": str(self.work)}
        return await asyncio.to_thread(self._outrider, "ota", *arguments, **variables)

    def copy(self) -> None:
        """The working copy, as the engineer has it: no online key in it."""
        shutil.copytree(self.site.repository.folder, self.work)
        shutil.rmtree(self.work / "keys")
        (self.work / "keys").mkdir()
        private = self.site.tasks[TASK]._private_key
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.work / "keys/colours.pem").write_bytes(pem)

    @property
    def key(self) -> tuple[str, str]:
        return "--key", f"file:{self.work}/keys/colours.pem"


async def lab(
    stack: AsyncExitStack, broker: str, folder: Path, outrider: Run, devices: int, **more: Any
) -> tuple[Lab, list[Obedient], list[str]]:
    """One with two signed releases, the older first."""
    site = make_site(folder / "site")
    service = await stack.enter_async_context(make_service(cloud_file(folder, broker, site), HeldModel()))
    await ready(service)
    made = Lab(service, site, folder / "work", outrider)
    digests = [(await publish(service, site, folder, counter)).release for counter in (1, 2)]
    made.copy()
    fleet = [
        await stack.enter_async_context(Obedient(broker, f"dev-{k}", site, folder, **more)) for k in range(devices)
    ]

    async def known() -> bool:
        rows = (await get(service, "/v1/devices"))[1]["devices"]
        return sum(TASK in row["slots"] for row in rows) == devices

    await eventually(known)
    return made, fleet, digests


@pytest.mark.broker
async def test_a_dry_run_says_what_each_stage_can_detect_and_begins_nothing(
    own_broker: AnyBroker, tmp_path: Path, outrider: Run
) -> None:
    async with AsyncExitStack() as stack:
        made, _, (_, newer) = await lab(stack, own_broker.url, tmp_path, outrider, 3)
        table = await made.ota("rollout", newer[:12], "--groups", "100%", "--min", "20", "--dry-run")
        assert table.code == 0, table.err
        assert "3 devices: only failure rates above 63%" in table.out
        assert "3 devices, and 20 must finish before the next" in table.err
        assert (await get(made.service, "/v1/rollouts"))[1] == {"rollouts": [], "stop": None}


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_from_a_dry_run_to_a_rollback(own_broker: AnyBroker, tmp_path: Path, outrider: Run) -> None:
    async with AsyncExitStack() as stack:
        made, fleet, (older, newer) = await lab(stack, own_broker.url, tmp_path, outrider, 6)
        ask = ("rollout", newer[:12], "--groups", "50%,100%", "--soak", "0s", "--name", "r-1", "--rollback-to", older)
        dry = await made.ota(*ask, "--dry-run", "--json")
        assert dry.code == 0, dry.err
        stages = dry.json["forecast"]["stages"]
        assert sum(stage["devices"] for stage in stages) == 6 and stages[-1]["tested"] == 6
        assert "6 devices: only failure rates above 39%" in stages[-1]["detects"]
        assert dry.json["forecast"]["bytes"] > 0
        table = await made.ota(*ask, "--dry-run")
        assert "only failure rates above" in table.out and "would begin r-1" in table.out
        assert (await made.ota("status", "--json")).json["rollouts"] == [], "nothing was begun"

        assert "add --yes" in (await made.ota(*ask, *made.key)).err
        assert (await made.ota(*ask, "--yes")).code == 2, "without a key nothing is signed"
        began = await made.ota(*ask, *made.key, "--yes", "--json")
        assert began.code == 0, began.err
        assert began.json["rollout"]["rollout"] == "r-1"
        waited = await made.ota("wait", "r-1", "--timeout", "1m", "--json")
        assert waited.code == 0, waited.out + waited.err
        assert waited.json["members"] == {"committed": 6}
        assert {device.running for device in fleet} == {newer}

        shown = await made.ota("status", "r-1")
        assert "failures" in shown.out and "committed" in shown.out
        watched = await made.ota("status", "r-1", "--watch")
        assert watched.code == 0 and "finished" in watched.out
        assert (await made.ota("approve", "r-1", "--yes")).code == 3, "there is nothing to approve"

        assert (await made.ota("stop", "r-1", "--dry-run", "--json")).json["dry_run"]
        assert (await made.ota("stop", "r-1")).code == 2
        assert (await made.ota("stop", "r-1", "--note", "drill", "--yes")).code == 0
        assert fleet[0].stops or await fleet[0].hears_stop()
        assert "STOPPED: r-1 (drill)" in (await made.ota("status")).out
        assert (await made.ota("stop", "r-1", "--lift", "--yes")).code == 0
        assert (await made.ota("status", "--json")).json["stop"] is None

        would = await made.ota("rollback", "r-1", "--dry-run", "--json")
        assert would.json["rollout"]["state"] == "rolling_back"
        assert (await made.ota("rollback", "r-1", "--note", "it was a drill", "--yes")).code == 0

        async def back() -> bool:
            return {device.running for device in fleet} == {older}

        await eventually(back, 30)
        assert (await made.ota("wait", "r-1", "--timeout", "20s")).code == 3, "rolled back is not finished"


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_pipeline_is_told_of_a_halt_and_of_time_that_ran_out(
    own_broker: AnyBroker, tmp_path: Path, outrider: Run
) -> None:
    async with AsyncExitStack() as stack:
        made, fleet, (_, newer) = await lab(
            stack, own_broker.url, tmp_path, outrider, 8, takes=lambda _: "refused" if open_ else "hold"
        )
        open_: list[int] = []
        ask = ("rollout", newer[:12], "--groups", "100%", "--soak", "0s", "--name", "r-bad", "--max-failures", "5%")
        assert (await made.ota(*ask, *made.key, "--yes", "--quiet")).code == 0
        waited = await made.ota("wait", "--timeout", "3s")
        assert waited.code == 5 and "has not ended" in waited.err
        paused = await made.ota("pause", "--note", "a look first", "--yes", "--json")
        assert paused.json["rollout"]["state"] == "paused", paused.err
        open_.append(1)
        for device in fleet:
            await device.report("refused", offered=newer, refused=[newer], reason="the self-test failed")

        async def halted() -> bool:
            return bool((await made.ota("status", "r-bad", "--json")).json["state"] == "halted")

        await eventually(halted, 60)
        waited = await made.ota("wait", "r-bad", "--timeout", "1m", "--json")
        assert (waited.code, waited.json["reason"]) == (3, "failures")
        refused = await made.ota("resume", "r-bad", "--yes", "--json")
        assert (refused.code, refused.json["error"]["reason"]) == (3, "halted_by_threshold")
        assert (await made.ota("abort", "r-bad", "--yes")).code == 0


def test_without_trust_in_the_cloud_nothing_begins(outrider: Run, tmp_path: Path) -> None:
    ran = outrider("ota", "rollout", "abc", "--repository", tmp_path, "--dry-run")
    assert ran.code != 0 and "Traceback" not in ran.err
    nobody = outrider("ota", "wait", "r-1", "--cloud", "http://127.0.0.1:9")
    assert nobody.code == 4 and "outrider cloud serve" in nobody.err


# --- what people write

GROUPS: dict[str, list[Group]] = {
    "5%,25%,100%": [
        Group(name="5pct", share=0.05),
        Group(name="25pct", share=0.25),
        Group(name="100pct", share=1.0),
    ],
    "site=berlin,100%": [Group(name="site-berlin", facts={"site": "berlin"}), Group(name="100pct")],
    "canary:group=canary": [Group(name="canary", facts={"group": "canary"})],
    "site=berlin+10%": [Group(name="site-berlin-10pct", facts={"site": "berlin"}, share=0.1)],
    "devices=cam-1|cam-2,50%": [Group(name="devices-2", devices=["cam-1", "cam-2"]), Group(name="50pct", share=0.5)],
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_are_read_as_they_are_written_and_back(text: str) -> None:
    assert parse_groups(text, minimum="1") == GROUPS[text]
    again = ",".join(f"{group.name}:{group_text(group)}" for group in GROUPS[text])
    assert parse_groups(again, minimum="1") == GROUPS[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "0%",
        "101%",
        "-5%",
        "5%,5%",
        "25%,5%",
        "site=berlin,site=berlin",
        "a:5%,a:10%",
        "site=",
        "=berlin",
        "Site=berlin",
        "devices=cam 1",
        "devices=",
        "nan%",
        "5%;10%",
        f"{'x' * 70}:5%",
        "site=" + "x" * 80,
    ],
)
def test_groups_that_are_none_or_shrink_are_refused(text: str) -> None:
    with pytest.raises(CallerInputError) as refused:
        parse_groups(text)
    assert refused.value.reason == "invalid_rollout" and refused.value.fix


def test_windows_are_read_as_they_are_written_and_back() -> None:
    window = WeeklyWindow(begin=4 * 1440 + 16 * 60, end=8 * 60)
    assert parse_freeze("Fri 16:00-Mon 08:00") == [window] and freeze_text(window) == "Fri 16:00-Mon 08:00"
    assert len(parse_freeze("Fri 16:00-Mon 08:00, Wed 00:00-Wed 06:00")) == 2
    assert parse_freeze("") == []
    assert window.holds(5 * 1440) and window.holds(0) and not window.holds(2 * 1440)


@pytest.mark.parametrize(
    "text", ["Fri-Mon", "Fri 24:00-Mon 08:00", "fri 16:00-mon 08:00", "Mon 08:00-Mon 08:00", "Fri 16:60-Mon 08:00"]
)
def test_windows_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(CallerInputError):
        parse_freeze(text)


def test_moments_and_shares_are_read() -> None:
    assert rollouts.moment_ms("", 5) == 5
    assert rollouts.moment_ms("2h", 1000) == 1000 + 7_200_000
    assert rollouts.moment_ms("2026-11-26T10:00", 0) == rollouts.moment_ms("2026-11-26T12:00+02:00", 0)
    assert (rollouts.rate("2%"), rollouts.rate("0.02")) == (0.02, 0.02)
    for text in ("2", "0%", "100%", "x", "-1%", "nan"):
        with pytest.raises(CallerInputError):
            rollouts.rate(text)
    with pytest.raises(CallerInputError):
        rollouts.moment_ms("tomorrow", 0)


def test_a_forecast_and_a_standing_are_shown_in_full() -> None:
    stage = {
        "name": "5pct", "group": "5%", "devices": 3, "present": 1, "online": 2, "minimum": 20, "tested": 3, "detects": "3 devices: …",
        "ruled_out": 0.63, "halted_above": 0.98, "bytes": 4_000_000, "seconds": 7200.0, "blockers": {"wrong_arch": 2},
    }  # fmt: skip
    said = json.dumps(
        {"rollout": "r", "stages": [stage], "devices": 3, "bytes": 1, "seconds": 1, "outside": 0, "warnings": []}
    )
    import msgspec

    [row] = rollouts.stage_rows(msgspec.json.decode(said, type=rollouts.Foretold))
    assert row[2] == "3 (2 online) + 1 run it" and row[-2:] == ("2.0 h", "2 wrong arch")


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_gc_removes_from_metadata_and_cloud_what_nothing_needs(
    own_broker: AnyBroker, tmp_path: Path, outrider: Run
) -> None:
    async with AsyncExitStack() as stack:
        made, _, (first, second) = await lab(stack, own_broker.url, tmp_path, outrider, 2)
        third = (await publish(made.service, made.site, tmp_path, 3)).release
        blobs = tmp_path / "data" / "blobs"
        store = made.service._store
        assert store is not None
        await store.write(
            lambda connection: connection.execute(sa.update(releases).values(created_ms=releases.c.created_ms - 10**9))
        )
        plan = plan_now(await known_as(made, second), groups=[Group(name="all")], expires_ms=2**52)
        made.site.plan(plan, task=TASK)

        foreseen = await made.ota("gc", "--keep", "1", "--json")
        assert foreseen.code == 0, foreseen.err
        why = {each["digest"]: each["why"] for each in foreseen.json["cloud"]["releases"]}
        assert foreseen.json["dry_run"] and why == {third: "it is signed", second: "it is signed", first: ""}
        assert (blobs / first[:2] / first).is_file()

        done = await made.ota("gc", "--keep", "1", *made.key, "--yes", "--json")
        assert done.code == 0, done.err
        here = {each["digest"] for each in (await get(made.service, "/v1/releases"))[1]["releases"]}
        assert here == {second, third}
        assert not (blobs / first[:2] / first).exists() and (blobs / second[:2] / second).is_file()
        again = await made.ota("gc", "--keep", "1")
        assert again.code == 0 and "nothing to remove" in again.out
        status, said = await request(made.service, "POST", "/v1/rollouts", body={"task": TASK, "rollout": plan.rollout})
        assert status == 201, said


async def known_as(made: Lab, digest: str) -> PlannedRelease:
    """A signed release, as a plan names it."""
    from outrider_trust.facts import release_facts, release_path

    target = made.site.repository.read(TASK).signed.targets[release_path(TASK, digest)]
    counter = release_facts(target.custom, task=TASK).counter
    return PlannedRelease(task=TASK, release=digest, size=target.length, counter=counter)
