"""What the cloud removes of its releases, and what it never does: by rule, on a real store, and against a rollout that begins meanwhile."""

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloud_service import write_config
from rollout_office import Office
from rollout_site import FIRST, TASK, TOPICS, plan_now

from factory import make_bundle
from outrider_cloud.background import Background
from outrider_cloud.config import load_cloud_config, read_tasks
from outrider_cloud.releases import Releases
from outrider_cloud.rollout.collecting import NEW_MS, Needs, Row, judge, survey
from outrider_cloud.rollout.collector import Collector
from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.store import release_rows
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.schema import release_files, releases
from outrider_cloud.store.schema import rollouts as rollout_table
from outrider_cloud.store.store import Store
from outrider_link.envelope import Outgoing
from outrider_wire.errors import BundleDamagedError, CallerUnknownError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest
from outrider_wire.rollout import Group

NOW = 10 * NEW_MS
ALL = [Group(name="all")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(url=f"sqlite:///{tmp_path / 'cloud.db'}")
    made.open()
    yield made
    made.close()


@pytest.fixture
async def office(tmp_path: Path, store: Store) -> Office:
    return Office(tmp_path, store)


def digest(number: int) -> str:
    return f"{number:064x}"


def row(number: int, **more: Any) -> Row:
    return Row(**({"digest": digest(number), "task": TASK, "version": str(number), "created_ms": number} | more))


# --- the rule

STAYS: dict[str, tuple[Needs, str]] = {
    "held": (Needs(held=frozenset([digest(1)])), "a device holds it"),
    "assigned": (Needs(assigned=frozenset([digest(1)])), "a device should hold it"),
    "planned": (Needs(planned=frozenset([digest(1)])), "a rollout names it"),
    "back": (Needs(back=frozenset([digest(1)])), "a rollout may return to it"),
    "signed": (Needs(signed=frozenset([digest(1)])), "it is signed"),
    "promoted": (Needs(promoted=frozenset([digest(1)])), "a learning round has promoted it"),
    "nothing": (Needs(), ""),
}


@pytest.mark.parametrize("need", STAYS)
def test_what_is_needed_stays_and_it_is_said_why(need: str) -> None:
    needs, why = STAYS[need]
    rows = [row(3), row(2), row(1)]
    assert judge(rows, needs, keep=2, now_ms=NOW)[digest(1)] == why


def test_the_newest_of_each_task_stay_and_what_came_today() -> None:
    rows = [row(9, created_ms=NOW - 5), row(8, created_ms=NOW - 6), row(7), row(6, task="sounds"), row(5)]
    said = judge(rows, Needs(), keep=1, now_ms=NOW)
    assert [said[digest(k)] for k in (9, 8, 7, 6, 5)] == [
        "one of the 1 newest",
        "it came today",
        "",
        "one of the 1 newest",
        "",
    ]


# --- the store


def collector(office: Office, *, plans: Any = None) -> Collector:
    blobs = BlobStore(root=office.folder / "blobs")
    return Collector(store=office.store, blobs=blobs, deltas=office.folder / "deltas", plans=plans)


async def stored(office: Office, number: int, *files: bytes) -> str:
    """A release of those files, long ago, that nobody has signed."""
    blobs = BlobStore(root=office.folder / "blobs")
    manifest = f"manifest {number}".encode()
    sizes = {blobs.put(data): len(data) for data in (manifest, *files)}
    name = hashlib.sha256(manifest).hexdigest()
    about = {"digest": name, "task": TASK, "version": f"1.{number}", "size": len(manifest)}
    about |= {"parent": None, "certificate": "", "created_ms": number}
    await office.store.write(partial(release_rows.add, row=about, files=sizes))
    return name


def why(office: Office) -> dict[str, str]:
    found = office.store.run(partial(survey, signed=frozenset(), keep=1, now_ms=NOW))
    return {each.version: each.why for each in found.releases}


async def test_what_devices_and_rollouts_need_stays_with_its_files(office: Office) -> None:
    running = office.controller()
    older, newer = await office.release(1), await office.release(2)
    for number in (3, 4, 5):
        await office.release(number)
    await office.begin(running, newer, devices=2, rollback_to=[older])
    await running.turn()
    await office.says("cam-0", running=FIRST, offered=newer.release, state="fetching")
    assert why(office) == {
        "1.5": "one of the 1 newest", "1.4": "", "1.3": "", "1.2": "a device holds it", "1.1": "a rollout may return to it",
    }  # fmt: skip


async def test_what_devices_ran_before_stays_as_long_as_they_may_be_ordered_back(office: Office) -> None:
    running = office.controller()
    older, newer = await office.release(1), await office.release(2)
    for number in (3, 4):
        await office.release(number)
    await office.begin(running, newer, devices=0)
    await office.says("cam-0", running=older.release)
    await running.turn()
    await office.says("cam-0", running=newer.release)
    await running.turn()
    assert why(office)["1.1"] == "a rollout may return to it"
    signed = frozenset([older.release])
    said = {each.digest: each for each in office.store.run(partial(survey, signed=signed, keep=1, now_ms=NOW)).releases}
    assert [each for each in said if said[each].returned] == [older.release], "and must stay signed: orders need that"
    far = office.kept().plan.expires_ms
    found = office.store.run(partial(survey, signed=frozenset(), keep=1, now_ms=far))
    assert {each.version: each.why for each in found.releases}["1.1"] == "", "no device obeys an order of it any more"


async def test_only_files_that_no_other_release_has_are_removed(office: Office) -> None:
    blobs = BlobStore(root=office.folder / "blobs")
    first = await stored(office, 1, b"only its own", b"shared")
    second = await stored(office, 2, b"shared", b"of the second")
    foreseen = await collector(office).foresee(keep=1)
    assert [each.why for each in foreseen.releases] == ["one of the 1 newest", ""]
    assert (foreseen.files, foreseen.bytes) == (2, len(b"manifest 1") + len(b"only its own"))
    assert len(blobs.all()) == 5, "to foresee removes nothing"
    done = await collector(office).collect(keep=1)
    assert done == foreseen
    assert {row["digest"] for row in office.rows(releases)} == {second}
    left = {row["sha256"] for row in office.rows(release_files)}
    assert {path.name for path in blobs.all()} == left and first not in left


async def test_what_is_known_of_deltas_to_or_from_removed_files_goes_with_them(office: Office) -> None:
    blobs, folder = BlobStore(root=office.folder / "blobs"), office.folder / "deltas"
    folder.mkdir()
    await stored(office, 1, b"old")
    await stored(office, 2, b"new", b"newer", b"a delta, by chance")
    old, new, newer = (hashlib.sha256(data).hexdigest() for data in (b"old", b"new", b"newer"))

    def keep(base: str, target: str, delta: bytes) -> str:
        said = {"delta": blobs.put(delta) if delta else "", "size": len(delta)}
        (folder / f"{base}-{target}.json").write_bytes(msgspec.json.encode(said))
        return said["delta"]

    gone = keep(old, new, b"from the old")
    named = keep(old, newer, b"a delta, by chance")
    stays = keep(new, newer, b"from the new")
    keep(newer, old, b"")
    (folder / f"{new}-{old}.json").write_bytes(b"damaged")
    await collector(office).collect(keep=1)
    assert [path.name for path in folder.iterdir()] == [f"{new}-{newer}.json"]
    assert blobs.find(gone) is None
    assert blobs.find(stays) is not None
    assert blobs.find(named) is not None, "a release names the same bytes"


async def test_what_is_signed_stays_unless_it_is_about_to_be_signed_no_more(office: Office) -> None:
    from outrider_cloud.trust.plans import SignedPlans

    old, _ = await office.release(1), await office.release(2)
    plans = SignedPlans(repository=office.site.repository, folder=office.folder / "believed")
    made = collector(office, plans=plans)
    assert all(each.why for each in (await made.foresee(keep=1)).releases)
    foreseen = await made.foresee(keep=1, without=frozenset([old.release]))
    assert [each.digest for each in foreseen.releases if not each.why] == [old.release]


# --- a rollout that begins meanwhile


@pytest.mark.parametrize("first", ["collector", "rollout"])
async def test_a_rollout_that_begins_meanwhile_has_all_its_files_or_is_refused(office: Office, first: str) -> None:
    """The signatures are not looked at here, so that nothing but the order of the two transactions decides."""
    running = office.controller()
    old, _ = await office.release(1), await office.release(2)
    desk = RolloutDesk(store=office.store, running=running)
    office.site.plan(plan_now(old, groups=ALL), task=TASK)
    works = [collector(office).collect(keep=1), desk.create(TASK, "r-1")]
    done = await asyncio.gather(*(works if first == "collector" else works[::-1]), return_exceptions=True)
    there = old.release in {row["digest"] for row in office.rows(releases)}
    begun = bool(office.rows(rollout_table))
    assert begun == there
    refused = [each for each in done if isinstance(each, Exception)]
    assert (not refused) if begun else [type(each) for each in refused] == [CallerUnknownError]


async def test_the_negative_control_of_that_leaves_a_rollout_without_its_release(office: Office) -> None:
    """Judged in one transaction and removed in another: a rollout fits in between."""
    running = office.controller()
    old, _ = await office.release(1), await office.release(2)
    office.site.plan(plan_now(old, groups=ALL), task=TASK)
    judged = office.store.run(partial(survey, signed=frozenset(), keep=1, now_ms=NOW))
    await RolloutDesk(store=office.store, running=running).create(TASK, "r-1")
    going = [each.digest for each in judged.releases if not each.why]
    await office.store.write(partial(release_rows.remove, digests=going))
    assert office.rows(rollout_table) and old.release not in {row["digest"] for row in office.rows(releases)}


async def test_a_release_whose_file_was_removed_meanwhile_is_not_made(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(_: Outgoing) -> None:
        return None

    path = write_config(office.folder, "mqtt://127.0.0.1:1")
    tasks = {name: task for name, (_, task) in read_tasks(load_cloud_config(path)).items()}
    blobs = BlobStore(root=office.folder / "blobs")
    bundle = make_bundle(office.folder / "bundle", tasks[TASK])
    for file in bundle.iterdir():
        blobs.put(file.read_bytes())
    data = (bundle / MANIFEST_FILE).read_bytes()
    lost = decode_manifest(data).files[0].sha256
    made = Releases(
        store=office.store, blobs=blobs, deltas=office.folder / "deltas", tasks=tasks, publish=publish, topics=TOPICS,
        background=Background(on_error=lambda _: None),
    )  # fmt: skip
    write = office.store.write

    async def after_a_removal(change: Any) -> Any:
        blobs.path(lost).unlink(missing_ok=True)
        return await write(change)

    monkeypatch.setattr(office.store, "write", after_a_removal)
    with pytest.raises(BundleDamagedError) as refused:
        await made.add(hashlib.sha256(data).hexdigest())
    assert refused.value.reason == "file_missing" and office.rows(releases) == []
