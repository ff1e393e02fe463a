"""What the cloud begins by itself: a promoted round, signed with the automatic role, to its canary group, and to nobody else."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cloud_service import HeldModel, eventually, get, make_service, ready, request, the_task, write_config
from mosquitto import AnyBroker
from rollout_office import Office
from rollout_site import FIRST, TASK, TOPICS, Obedient, cloud_file, make_site, plan_now, sign_release
from securesystemslib.signer import CryptoSigner

from factory import make_bundle
from outrider_cloud.background import Background
from outrider_cloud.config import load_cloud_config, read_tasks
from outrider_cloud.learning import rounds
from outrider_cloud.learning.handing_over import hand_over
from outrider_cloud.learning.opening import opened
from outrider_cloud.rollout.automatic import Automatic, Promoted, name_of, plan_of, waiting
from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.running import Rollouts
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.schema import rollouts as rollout_table
from outrider_cloud.store.store import Store
from outrider_cloud.trust.automatic import AutomaticRole
from outrider_cloud.trust.online import OnlineRoles
from outrider_cloud.trust.service import Trust
from outrider_cloud.trust.settings import AutomaticSettings
from outrider_link.envelope import Outgoing
from outrider_trust.facts import Canary, canary_fault
from outrider_wire.codec import encode
from outrider_wire.errors import OperatorConfigError, RuleRefusalError, TrustRefusedError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest
from outrider_wire.messages import Desired
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease

CANARIES = ["roll-0", "roll-1"]
FEW = Canary(group=Group(name="canary", devices=CANARIES), salt="canary-salt-0000")


def promote(store: Store, candidate: str, *, state: rounds.Ended = "promoted") -> int:
    """A learning round that ended so."""
    number = store.submit(partial(rounds.start, task=TASK, deployed=FIRST, now_ms=1)).result()
    ended = partial(rounds.finish, number=number, state=state, candidate=candidate, report={}, now_ms=2)
    store.submit(ended).result()
    return int(number)


# --- the rules


def test_the_plan_of_a_round_is_one_that_the_automatic_role_may_sign() -> None:
    planned = PlannedRelease(task=TASK, release="a" * 64, size=100, counter=3)
    plan = plan_of(
        FEW, planned, Promoted(number=7, release="a" * 64), AutomaticSettings(expires_days=2, soak_s=60), now_ms=1000
    )
    assert canary_fault(plan, FEW) == ""
    assert (plan.rollout, plan.soak_s, plan.expires_ms - plan.start_ms) == ("colours-auto-7", 60, 2 * 86_400_000)
    assert plan.groups[0].minimum_share == 0.6


def test_a_name_stays_a_name_however_long_the_task_is() -> None:
    assert name_of("a" * 39 + "-" + "b" * 24, 10**9) == "a" * 39 + "-auto-1000000000"


# --- the key


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(url=f"sqlite:///{tmp_path / 'cloud.db'}")
    made.open()
    yield made
    made.close()


@pytest.fixture
async def office(tmp_path: Path, store: Store) -> AsyncIterator[Office]:
    yield Office(tmp_path, store, canary=FEW)


def role_of(office: Office, **more: Any) -> AutomaticRole:
    about: dict[str, Any] = {"signer": office.site.autos[TASK]} | more
    return AutomaticRole(task=TASK, repository=office.site.repository, **about)


def bundle_of(folder: Path, seed: int = 1, **more: Any) -> Path:
    write_config(folder, "mqtt://127.0.0.1:1")
    return make_bundle(folder / f"bundle-{seed}", the_task(folder), seed=seed, version=f"round-{seed}", **more)


async def test_its_counter_follows_every_other_and_its_demands_are_its_parents(office: Office, tmp_path: Path) -> None:
    from outrider_wire.fitness import Requires

    parent = sign_release(office.site, b"the parent", 5, requires=Requires(memory_mb=512))
    bundle = bundle_of(tmp_path, parent=parent.release)
    manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
    planned, facts = role_of(office).release_of(manifest, digest="b" * 64, size=10)
    assert (planned.counter, facts.counter, facts.requires.memory_mb) == (6, 6, 512)


async def test_it_signs_no_plan_for_more_than_the_canary_group(office: Office, tmp_path: Path) -> None:
    role = role_of(office)
    data = (bundle_of(tmp_path) / MANIFEST_FILE).read_bytes()
    planned, facts = role.release_of(decode_manifest(data), digest="b" * 64, size=len(data))
    for groups in ([Group(name="canary")], [FEW.group, Group(name="all")]):
        with pytest.raises(RuleRefusalError) as refused:
            role.sign(data, facts, plan_now(planned, groups=groups, salt=FEW.salt))
        assert refused.value.reason == "plan_beyond_canary"


async def test_a_key_that_nobody_delegates_to_is_found_at_the_start(office: Office) -> None:
    role_of(office).check()
    with pytest.raises(OperatorConfigError) as refused:
        role_of(office, signer=CryptoSigner.generate_ed25519()).check()
    assert refused.value.reason == "online_key"


async def test_what_the_role_has_signed_is_signed_again_before_it_expires(office: Office) -> None:
    assert role_of(office).renewed() == {}
    files = role_of(office, clock=lambda: time.time() + 16 * 86_400).renewed()
    assert list(files) == [f"{TASK}-auto"]


async def test_a_role_whose_proposal_waits_keeps_no_other_from_being_renewed(office: Office) -> None:
    class Waits:
        def renewed(self) -> dict[str, bytes]:
            raise RuleRefusalError("a version waits for signatures", reason="proposal_waits")

    trust = Cloud(office).trust
    late = role_of(office, clock=lambda: time.time() + 16 * 86_400)
    trust.automatic = {"another": Waits(), TASK: late}  # type: ignore[dict-item]
    before = office.site.repository.version(f"{TASK}-auto")
    await trust.tend()
    assert office.site.repository.version(f"{TASK}-auto") == before + 1


def test_it_is_off_unless_asked_for_and_asks_for_what_it_needs(tmp_path: Path) -> None:
    config = load_cloud_config(write_config(tmp_path, "mqtt://127.0.0.1:1"))
    assert config.trust.automatic == {}
    with opened(config, TASK) as work:
        assert not work.hands_over
    path = write_config(tmp_path, "mqtt://127.0.0.1:1", more="[trust.automatic.colours]\nsoak_s = 0")
    with pytest.raises(OperatorConfigError) as unsigned:
        load_cloud_config(path)
    assert unsigned.value.reason == "automatic_unsigned"
    more = '[trust]\nrepository = "r"\n[trust.automatic.sounds]\nkey = "file:a.pem"'
    config = load_cloud_config(write_config(tmp_path, "mqtt://127.0.0.1:1", more=more))
    assert config.trust.automatic_key("sounds") == f"file:{tmp_path / 'a.pem'}"
    with pytest.raises(OperatorConfigError) as unknown:
        read_tasks(config)
    assert unknown.value.reason == "unknown_task"


# --- from a round to orders, without a broker


class Cloud:
    """One process of the cloud: what begins rollouts by itself, and what runs them."""

    def __init__(self, office: Office, name: str = "one") -> None:
        async def publish(_: Outgoing) -> None:
            return None

        site = office.site
        online = OnlineRoles(
            repository=site.repository,
            signers={"snapshot": site.snapshot, "timestamp": site.timestamp},
            find_blob=office_blobs(office).find,
            days={"snapshot": 14.0, "timestamp": 7.0},
        )
        self.trust = Trust(
            publish=publish,
            topics=TOPICS,
            background=Background(on_error=lambda _: None),
            online=online,
            automatic={TASK: role_of(office)},
        )
        self.running: Rollouts = office.controller(name)
        self.automatic = Automatic(
            store=office.store,
            blobs=office_blobs(office),
            trust=self.trust,
            running=self.running,
            desk=RolloutDesk(store=office.store, running=self.running),
            settings={TASK: AutomaticSettings(soak_s=0)},
        )


def office_blobs(office: Office) -> BlobStore:
    return BlobStore(root=office.folder / "blobs")


async def handed_over(office: Office, seed: int = 1) -> str:
    """A bundle whose round ended well."""
    bundle = bundle_of(office.folder, seed)
    digest = await asyncio.to_thread(hand_over, bundle, store=office.store, blobs=office_blobs(office))
    await asyncio.to_thread(promote, office.store, digest)
    return digest


async def test_a_promoted_round_goes_to_the_canaries_and_to_nobody_else(office: Office) -> None:
    for k in range(6):
        await office.says(f"roll-{k}")
    digest = await handed_over(office)
    cloud = Cloud(office)
    await cloud.automatic.turn()
    await cloud.running.turn()
    kept = office.kept("colours-auto-1")
    assert kept.automatic and [each.release for each in kept.plan.releases] == [digest]
    assert [bool(office.envelope(f"roll-{k}")) for k in range(6)] == [True, True, False, False, False, False]
    device = office.site.device(office.folder / "device")
    device.refresh(office.site.source)
    signed = device.plan(TASK, "colours-auto-1", office.site.source)
    assert signed is not None and signed.automatic and signed.releases[0].digest == digest
    assert device.open_order(office.envelope("roll-0"), device="roll-0").releases == kept.plan.releases


async def test_a_cloud_that_ends_at_any_point_goes_on_and_begins_it_once(office: Office) -> None:
    """Signed and not begun; begun and looked at again; and the version of the role does not move any more."""
    await handed_over(office)
    ended = Cloud(office)

    async def ends(*_: object) -> None:
        raise KeyboardInterrupt

    ended.automatic._desk.create = ends  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        await ended.automatic.turn()
    assert office.rows(rollout_table) == []
    version = office.site.repository.version(f"{TASK}-auto")
    for _ in range(3):
        await Cloud(office).automatic.turn()
    assert [row["rollout"] for row in office.rows(rollout_table)] == ["colours-auto-1"]
    assert office.site.repository.version(f"{TASK}-auto") == version, "it is signed once"


async def test_of_two_clouds_at_once_one_begins_it(office: Office) -> None:
    await handed_over(office)
    one, two = Cloud(office, "one"), Cloud(office, "two")
    for _ in range(3):  # who comes too late says so, and finds it done in its next turn
        await asyncio.gather(one.automatic.turn(), two.automatic.turn())
    assert [row["rollout"] for row in office.rows(rollout_table)] == ["colours-auto-1"]


async def test_only_the_newest_round_that_was_promoted_and_handed_over_is_followed(office: Office) -> None:
    def found() -> Promoted | None:
        return office.store.run(partial(waiting, task=TASK))

    assert found() is None
    first = await handed_over(office, 1)
    await asyncio.to_thread(promote, office.store, "c" * 64, state="refused")
    assert found() == Promoted(number=1, release=first)
    second = await handed_over(office, 2)
    assert found() == Promoted(number=3, release=second)
    await asyncio.to_thread(promote, office.store, "d" * 64)  # elsewhere: its files are not here
    assert found() is None


async def test_a_rollout_of_a_person_is_waited_for(office: Office) -> None:
    cloud = Cloud(office)
    await office.begin(cloud.running, await office.release(1), devices=2)
    await handed_over(office)
    await cloud.automatic.turn()
    assert [row["rollout"] for row in office.rows(rollout_table)] == ["r-1"]
    desk = RolloutDesk(store=office.store, running=cloud.running)
    await desk.act("r-1", "abort", note="", forgive=False, dry_run=False)
    await cloud.automatic.turn()
    assert sorted(row["rollout"] for row in office.rows(rollout_table)) == ["colours-auto-1", "r-1"]


# --- on a wire


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_from_a_round_to_its_canaries_and_beyond_them_by_a_release_key_alone(
    own_broker: AnyBroker, tmp_path: Path
) -> None:
    broker, site = own_broker.url, make_site(tmp_path / "site", canary=FEW)
    path = cloud_file(tmp_path, broker, site, trust=f"[trust.automatic.{TASK}]\nsoak_s = 0\n")
    async with make_service(path, HeldModel()) as service, AsyncExitStack() as stack:
        await ready(service)
        devices = [await stack.enter_async_context(Obedient(broker, f"roll-{k}", site, tmp_path)) for k in range(5)]

        async def rollout_is(name: str, state: str) -> Any:
            async def is_it() -> bool:
                status, said = await get(service, f"/v1/rollouts/{name}")
                return status == 200 and said["state"] == state

            await eventually(is_it, 60)
            return (await get(service, f"/v1/rollouts/{name}"))[1]

        async def all_there() -> bool:
            rows = (await get(service, "/v1/devices"))[1]["devices"]
            return sum(TASK in row["slots"] for row in rows) == 5

        await eventually(all_there)
        bundle = bundle_of(tmp_path / "made")

        def learn() -> str:
            """What `outrider distill run` does at the end of a round, in a process of its own."""
            with opened(load_cloud_config(path), TASK) as work:
                assert work.hands_over
                digest = hand_over(bundle, store=work.library.store, blobs=work.library.blobs)
                promote(work.library.store, digest)
                return digest

        candidate = await asyncio.to_thread(learn)
        shown = await rollout_is("colours-auto-1", "finished")
        assert shown["automatic"] and shown["members"] == {"committed": 2}
        assert [device.running for device in devices] == [candidate] * 2 + [FIRST] * 3
        assert [len(device.orders) for device in devices] == [1, 1, 0, 0, 0]

        # the automatic role's own signature on a larger group: the cloud does not begin it, and the device refuses the order
        planned = PlannedRelease(**shown["releases"][0])
        beyond = plan_now(planned, rollout="r-beyond", salt=FEW.salt, groups=[Group(name="canary")])
        site.plan(beyond, task=TASK, automatic=True)
        status, said = await request(service, "POST", "/v1/rollouts", body={"task": TASK, "rollout": "r-beyond"})
        assert (status, said["error"]["reason"]) == (409, "plan_beyond_canary")
        order = DeviceOrder(
            device="roll-4", number=round(time.time() * 1000), rollout="r-beyond", stage=0, releases=[planned],
            issued_ms=beyond.start_ms, expires_ms=beyond.expires_ms,
        )  # fmt: skip
        wish = Outgoing(
            TOPICS.of("desired", "roll-4"), encode(Desired(assignments=[], order=site.order(order))), retain=False
        )
        await devices[0].session.publish(wish)

        async def refused() -> bool:
            return bool(devices[4].refused)

        await eventually(refused)
        assert devices[4].refused == ["plan_beyond_canary"] and devices[4].running == FIRST

        # beyond the canaries: the same bundle, signed with the task's key
        manifest = (bundle / MANIFEST_FILE).read_bytes()
        again = sign_release(site, manifest, planned.counter)
        site.plan(plan_now(again, rollout="r-all", groups=[Group(name="all")]), task=TASK)
        status, said = await request(service, "POST", "/v1/rollouts", body={"task": TASK, "rollout": "r-all"})
        assert status == 201, said
        assert not (await rollout_is("r-all", "finished"))["automatic"]
        assert {device.running for device in devices} == {candidate}


async def test_a_repository_that_does_not_delegate_refuses_the_start(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    site.autos[TASK] = CryptoSigner.generate_ed25519()
    site.sign_targets()
    site.online()
    path = cloud_file(tmp_path, "mqtt://127.0.0.1:1", site, trust=f"[trust.automatic.{TASK}]\n")
    with pytest.raises((OperatorConfigError, TrustRefusedError)):
        async with make_service(path, HeldModel()):
            pass
