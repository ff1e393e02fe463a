"""A device believes what is signed and newest, and refuses every attack by name. Real keys, real metadata."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from trust_world import CANARY, NOW_S, TASK, Clock, Remembered, Site, a_plan
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import Updater

from outrider_trust.client import TrustedMetadata
from outrider_trust.durable import SourceFetcher
from outrider_trust.facts import CANARY_FIELD, auto_role, plan_path, release_path
from outrider_trust.repository import delegate
from outrider_trust.sources import DirectorySource, NotHereError, checked_path
from outrider_wire.errors import OutriderError, TrustClockError, TrustDamagedError, TrustRefusedError, UnreachableError
from outrider_wire.rollout import Group, PlannedRelease

DAY_S = 86_400.0


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "repository")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "device"


def reason(act: Callable[[], Any]) -> str:
    """Why it is refused; '' when it is not."""
    try:
        act()
    except OutriderError as error:
        return error.reason
    return ""


def test_a_release_and_a_plan_that_are_signed_are_believed(site: Site, folder: Path) -> None:
    release = site.release(3, parent="0" * 64)
    plan = site.plan(a_plan(release))
    device = site.device(folder)
    versions = device.refresh(site.source)
    found, signed = device.release(TASK, release.release, site.source), device.plan(TASK, "r1", site.source)
    assert found and (found.size, found.facts.counter, found.facts.parent) == (release.size, 3, "0" * 64)
    assert not found.automatic
    assert signed and signed.plan == plan and signed.releases == [found] and not signed.automatic
    assert versions.roles[TASK] == 3 and versions.expires_s == NOW_S + 7 * DAY_S and versions.signed_s == NOW_S


def test_what_nobody_signed_is_not_found(site: Site, folder: Path) -> None:
    device = site.device(folder)
    device.refresh(site.source)
    assert device.release(TASK, "ab" * 32, site.source) is None
    assert device.plan(TASK, "r9", site.source) is None


def test_nothing_is_looked_up_before_metadata_was_refreshed(site: Site, folder: Path) -> None:
    assert reason(lambda: site.device(folder).release(TASK, "ab" * 32, site.source)) == "metadata_missing"


# --- attacks by whoever serves metadata (each on a device that has seen the newest state, or on a fresh one)


def expired(site: Site, _: Remembered) -> Remembered:
    site.clock.at_s += 8 * DAY_S
    return Remembered.of(site.repository)


def replayed(_: Site, old: Remembered) -> Remembered:
    return old


def old_snapshot(site: Site, old: Remembered) -> Remembered:
    now = Remembered.of(site.repository)
    version = site.repository.version("snapshot")
    now.files[f"metadata/{version}.snapshot.json"] = old.files[f"metadata/{version - 1}.snapshot.json"]
    return now


def old_role(site: Site, old: Remembered) -> Remembered:
    now = Remembered.of(site.repository)
    version = site.repository.version(TASK)
    now.files[f"metadata/{version}.{TASK}.json"] = old.files[f"metadata/{version - 1}.{TASK}.json"]
    return now


def truncated(site: Site, _: Remembered) -> Remembered:
    now = Remembered.of(site.repository)
    now.files["metadata/timestamp.json"] = now.files["metadata/timestamp.json"][:-7]
    return now


def bit_flip(site: Site, _: Remembered) -> Remembered:
    now = Remembered.of(site.repository)
    data = bytearray(now.files["metadata/timestamp.json"])
    data[data.index(b'"version":') + len(b'"version":')] ^= 1
    now.files["metadata/timestamp.json"] = bytes(data)
    return now


def oversized(site: Site, _: Remembered) -> Remembered:
    now = Remembered.of(site.repository)
    now.files["metadata/timestamp.json"] += b" " * 20_000
    return now


def under_signed(site: Site, _: Remembered) -> Remembered:
    metadata = site.repository.fresh("root")
    site.repository.sign("root", metadata, site.roots[:1])
    now = Remembered.of(site.repository)
    now.files["metadata/2.root.json"] = metadata.to_bytes()
    return now


def one_key_twice(site: Site, _: Remembered) -> Remembered:
    metadata = site.repository.fresh("root")
    site.repository.sign("root", metadata, [site.roots[0], site.roots[0]])
    said = json.loads(metadata.to_bytes())
    said["signatures"] *= 2
    now = Remembered.of(site.repository)
    now.files["metadata/2.root.json"] = json.dumps(said).encode()
    return now


def foreign_key(site: Site, _: Remembered) -> Remembered:
    metadata = site.repository.fresh("timestamp")
    metadata.signed.snapshot_meta = site.repository.read("timestamp").signed.snapshot_meta
    site.repository.sign("timestamp", metadata, [CryptoSigner.generate_ed25519()])
    now = Remembered.of(site.repository)
    now.files["metadata/timestamp.json"] = metadata.to_bytes()
    return now


def new_quorum_alone(site: Site, _: Remembered) -> Remembered:
    metadata, thief = site.repository.fresh("root"), [CryptoSigner.generate_ed25519() for _ in range(2)]
    for signer in site.roots:
        metadata.signed.revoke_key(signer.public_key.keyid, "root")
    for signer in thief:
        metadata.signed.add_key(signer.public_key, "root")
    site.repository.sign("root", metadata, thief)
    now = Remembered.of(site.repository)
    now.files["metadata/2.root.json"] = metadata.to_bytes()
    return now


def one_role_for_another(site: Site, _: Remembered) -> Remembered:
    now = Remembered.of(site.repository)
    now.files["metadata/timestamp.json"] = now.files["metadata/1.targets.json"]
    return now


def empty(site: Site, _: Remembered) -> Remembered:
    return Remembered(dict.fromkeys(Remembered.of(site.repository).files, b""))


def gone(_: Site, __: Remembered) -> Remembered:
    return Remembered({})


ATTACKS: dict[str, tuple[Callable[[Site, Remembered], Remembered], str]] = {
    "an expired timestamp": (expired, "metadata_expired"),
    "the whole old repository": (replayed, "metadata_rolled_back"),
    "an old snapshot under a new timestamp": (old_snapshot, "metadata_mixed"),
    "an old role under a new snapshot": (old_role, "metadata_mixed"),
    "a truncated timestamp": (truncated, "metadata_invalid"),
    "a timestamp with a bit flipped": (bit_flip, "metadata_unsigned"),
    "an endless timestamp": (oversized, "metadata_too_large"),
    "a root signed by one of two": (under_signed, "metadata_unsigned"),
    "a root signed twice with one key": (one_key_twice, "metadata_invalid"),
    "a timestamp of a foreign key": (foreign_key, "metadata_unsigned"),
    "a root by a new quorum alone": (new_quorum_alone, "metadata_unsigned"),
    "targets as the timestamp": (one_role_for_another, "metadata_invalid"),
    "empty files": (empty, "metadata_invalid"),
    "no file at all": (gone, "metadata_missing"),
}


MIXED = {"an old snapshot under a new timestamp", "an old role under a new snapshot"}
"""Seen by a device that has to fetch them: a fresh one."""


@pytest.mark.parametrize("name", ATTACKS)
def test_what_an_attacker_serves_is_refused_and_what_was_believed_stays(name: str, site: Site, folder: Path) -> None:
    attack, expected = ATTACKS[name]
    site.release(1)
    old = Remembered.of(site.repository)
    release = site.release(2)
    if name not in MIXED:
        site.device(folder).refresh(site.source)
    kept = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    source, device = attack(site, old), site.device(folder)

    def look() -> None:
        device.refresh(source)
        device.release(TASK, release.release, source)

    assert reason(look) == expected
    if name not in MIXED:
        assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == kept
    site.clock.at_s = NOW_S
    again = site.device(folder)
    again.refresh(site.source)
    assert again.release(TASK, release.release, site.source), "the true repository is believed afterwards"


def test_without_the_attack_the_same_device_believes(site: Site, folder: Path) -> None:
    site.release(1)
    device = site.device(folder)
    device.refresh(site.source)
    release = site.release(2)
    device.refresh(Remembered.of(site.repository))
    assert device.release(TASK, release.release, site.source)


def test_a_source_that_does_not_answer_is_unreachable(site: Site, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        site.device(folder).refresh(DirectorySource(tmp_path / "not mounted"))


# --- the two that python-tuf accepts, measured: an emptied timestamp, and a clock in the past


def test_a_device_whose_timestamp_and_snapshot_were_emptied_refuses_the_old_repository(
    site: Site, folder: Path
) -> None:
    site.release(1)
    old = Remembered.of(site.repository)
    site.release(2)
    site.device(folder).refresh(site.source)
    for role in ("timestamp", "snapshot"):
        (folder / f"{role}.json").write_bytes(b"")
    with pytest.raises(TrustDamagedError, match="mend"):
        site.device(folder).refresh(old)
    with pytest.raises(TrustDamagedError):  # nor is anything else believed until a person, or a rule, mends it
        site.device(folder).refresh(site.source)
    assert site.device(folder).mend()
    assert reason(lambda: site.device(folder).refresh(old)) == "metadata_rolled_back"
    assert site.device(folder).refresh(site.source).timestamp == site.repository.version("timestamp")


def test_the_bare_client_accepts_that_replay(tmp_path: Path, folder: Path) -> None:
    """The control: this is what the floor is for."""
    site = Site(tmp_path / "now", clock=Clock(time.time()))
    folder.mkdir()

    def refresh(source: Any) -> None:
        Updater(str(folder), "metadata/", fetcher=SourceFetcher(source), bootstrap=site.root).refresh()

    site.release(1)
    old = Remembered.of(site.repository)
    site.release(2)
    refresh(site.source)
    for role in ("timestamp", "snapshot"):
        (folder / f"{role}.json").write_bytes(b"")
    refresh(old)
    assert Metadata.from_file(str(folder / "timestamp.json")).signed.version < site.repository.version("timestamp")


def test_a_clock_in_the_past_is_refused_and_does_not_make_an_expired_timestamp_good(site: Site, folder: Path) -> None:
    frozen = Remembered.of(site.repository)
    site.device(folder).refresh(frozen)
    site.clock.at_s = NOW_S - 7 * 365 * DAY_S
    with pytest.raises(TrustClockError, match="chrony"):
        site.device(folder).refresh(frozen)
    fresh = site.device(folder.with_name("fresh"))
    with pytest.raises(TrustClockError):  # the root that it was shipped with was signed later than that
        fresh.refresh(frozen)


def test_what_has_expired_is_judged_by_the_later_of_clock_and_floor(site: Site, folder: Path) -> None:
    frozen = Remembered.of(site.repository)
    site.clock.at_s = NOW_S + 8 * DAY_S
    proved = site.clock.at_s
    site.clock.at_s -= 1800  # half an hour behind what the broker proved: within what clocks may differ
    device = site.device(folder, floor=lambda: proved)
    assert reason(lambda: device.refresh(frozen)) == "metadata_expired"


# --- damage


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "highest"])
@pytest.mark.parametrize("how", ["emptied", "cut", "gone"])
def test_damage_is_refused_and_mended_without_forgetting(name: str, how: str, site: Site, folder: Path) -> None:
    site.release(1)
    old = Remembered.of(site.repository)
    site.release(2)
    site.device(folder).refresh(site.source)
    path = folder / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "emptied" else path.read_bytes()[:-20])
    assert reason(lambda: site.device(folder).refresh(site.source)) == "metadata_damaged"
    assert site.device(folder).mend()
    assert reason(lambda: site.device(folder).refresh(old)) == "metadata_rolled_back"
    site.device(folder).refresh(site.source)


def test_an_older_file_that_is_signed_is_damage_too(site: Site, folder: Path) -> None:
    site.device(folder).refresh(site.source)
    older = (folder / "timestamp.json").read_bytes()
    site.release(1)
    site.device(folder).refresh(site.source)
    (folder / "timestamp.json").write_bytes(older)
    assert reason(lambda: site.device(folder).refresh(site.source)) == "metadata_damaged"


def test_when_floor_and_files_are_both_lost_a_person_must_decide(site: Site, folder: Path) -> None:
    site.device(folder).refresh(site.source)
    for name in ("highest", "timestamp.json"):
        (folder / name).write_bytes(b"?")
    assert reason(lambda: site.device(folder).mend()) == "metadata_lost"


def test_mending_what_is_whole_changes_nothing(site: Site, folder: Path) -> None:
    assert site.device(folder).mend() == []
    site.device(folder).refresh(site.source)
    assert site.device(folder).mend() == []
    site.device(folder).refresh(site.source)


def test_a_root_that_was_seen_is_not_forgotten(site: Site, folder: Path) -> None:
    before = Remembered.of(site.repository)
    metadata = site.repository.fresh("root")
    site.repository.sign("root", metadata, site.roots)
    site.repository.publish("root", metadata)
    site.device(folder).refresh(site.source)
    (folder / "root_history" / "2.root.json").unlink()
    assert reason(lambda: site.device(folder).refresh(before)) == "metadata_rolled_back"
    assert site.device(folder).refresh(site.source).root == 2


def test_a_counter_never_falls_and_survives(site: Site, folder: Path) -> None:
    device = site.device(folder)
    assert device.counter(TASK) == 0
    device.raise_counter(TASK, 5)
    device.raise_counter(TASK, 3)
    assert site.device(folder).counter(TASK) == 5
    device.refresh(site.source)
    assert device.counter(TASK) == 5


# --- keys change


def test_a_device_follows_a_root_to_other_keys_and_the_old_ones_are_worth_nothing(site: Site, folder: Path) -> None:
    site.device(folder).refresh(site.source)
    new = CryptoSigner.generate_ed25519()
    metadata = site.repository.fresh("root")
    metadata.signed.revoke_key(site.timestamp.public_key.keyid, "timestamp")
    metadata.signed.add_key(new.public_key, "timestamp")
    site.repository.sign("root", metadata, site.roots[1:])
    site.repository.publish("root", metadata)
    assert reason(lambda: site.device(folder).refresh(site.source)) == "metadata_unsigned"
    site.timestamp = new
    site.online()
    assert site.device(folder).refresh(site.source).root == 2


def test_with_new_keys_a_version_that_ran_away_comes_back(site: Site, folder: Path) -> None:
    """A thief of the timestamp key signs version 2**40; the root takes the key back, and devices recover (TUF 5.3.11)."""
    thief = site.repository.fresh("timestamp")
    thief.signed.version = 2**40
    thief.signed.snapshot_meta = site.repository.read("timestamp").signed.snapshot_meta
    site.repository.sign("timestamp", thief, [site.timestamp])
    stolen = Remembered.of(site.repository)
    stolen.files["metadata/timestamp.json"] = thief.to_bytes()
    assert site.device(folder).refresh(stolen).timestamp == 2**40
    assert reason(lambda: site.device(folder).refresh(site.source)) == "metadata_rolled_back"
    new = CryptoSigner.generate_ed25519()
    metadata = site.repository.fresh("root")
    metadata.signed.revoke_key(site.timestamp.public_key.keyid, "timestamp")
    metadata.signed.add_key(new.public_key, "timestamp")
    site.repository.sign("root", metadata, site.roots)
    site.repository.publish("root", metadata)
    site.timestamp = new
    site.online()
    assert site.device(folder).refresh(site.source).timestamp < 2**40


def test_a_task_key_that_was_revoked_signs_no_release(site: Site, folder: Path) -> None:
    release = site.release(1)
    metadata = site.repository.fresh("targets")
    delegate(metadata.signed, TASK, [f"{TASK}/*"], [CryptoSigner.generate_ed25519().public_key])
    site.repository.sign("targets", metadata, [site.targets])
    site.repository.publish("targets", metadata)
    site.online()
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.release(TASK, release.release, site.source)) == "metadata_unsigned"


# --- who may speak of what


def test_a_task_role_cannot_speak_of_another_task(tmp_path: Path, folder: Path) -> None:
    site = Site(tmp_path / "two", tasks=(TASK, "sounds"))
    foreign = site.release(1, task="sounds")
    path = release_path(TASK, foreign.release)
    target = site.repository.put_target(path, b"{}")
    site.publish_role("sounds", targets={path: target})
    site.online()
    device = site.device(folder)
    device.refresh(site.source)
    assert device.release(TASK, foreign.release, site.source) is None
    assert device.release("sounds", foreign.release, site.source)


def test_a_release_signed_under_another_digest_or_of_another_task_is_refused(site: Site, folder: Path) -> None:
    good = site.release(1)
    lying = site.repository.put_target(release_path(TASK, "ab" * 32), b"other bytes")
    facts = {"task": "sounds", "version": "1", "counter": 9}
    data = b"of another task"
    foreign = TargetFile.from_data("x", data, ["sha256"])
    path = release_path(TASK, foreign.hashes["sha256"])
    site.publish_role(TASK, targets={lying.path: lying, path: site.repository.put_target(path, data, facts)})
    site.online()
    device = site.device(folder)
    device.refresh(site.source)
    for digest in ("ab" * 32, foreign.hashes["sha256"]):
        assert reason(lambda digest=digest: device.release(TASK, digest, site.source)) == "release_invalid"
    assert device.release(TASK, good.release, site.source)


@pytest.mark.parametrize("field", ["counter", "size"])
def test_a_plan_must_agree_with_what_is_signed_of_its_releases(field: str, site: Site, folder: Path) -> None:
    release = site.release(4)
    other = {"counter": 5} if field == "counter" else {"size": release.size + 1}
    changed = {"task": TASK, "release": release.release, "size": release.size, "counter": release.counter, **other}
    site.plan(a_plan(PlannedRelease(**changed)))
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.plan(TASK, "r1", site.source)) == "plan_contradicted"


def test_a_plan_for_two_tasks_must_be_signed_for_both(tmp_path: Path, folder: Path) -> None:
    site = Site(tmp_path / "two", tasks=(TASK, "sounds"))
    plan = a_plan(site.release(1), site.release(1, task="sounds"))
    site.plan(plan)
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.plan(TASK, "r1", site.source)) == "plan_contradicted"
    site.plan(plan, task="sounds")
    device.refresh(site.source)
    found = device.plan(TASK, "r1", site.source)
    assert found and [each.facts.task for each in found.releases] == [TASK, "sounds"]


def test_a_plan_whose_bytes_are_others_or_gone_is_refused(site: Site, folder: Path) -> None:
    site.plan(a_plan(site.release(1)))
    device, now = site.device(folder), Remembered.of(site.repository)
    device.refresh(now)
    (path,) = [name for name in now.files if "/plans/" in name]
    now.files[path] = now.files[path].replace(b'"soak_s":0', b'"soak_s":9')
    assert reason(lambda: device.plan(TASK, "r1", now)) == "metadata_mixed"
    del now.files[path]
    assert reason(lambda: device.plan(TASK, "r1", now)) == "metadata_missing"


# --- the automatic role


def canary_plan(release: PlannedRelease, **more: Any) -> Any:
    return a_plan(release, **({"groups": [CANARY.group], "salt": CANARY.salt} | more))


BEYOND: dict[str, dict[str, Any]] = {
    "the whole fleet": {"groups": [Group(name="canary", share=1.0)]},
    "a second group": {"groups": [CANARY.group, Group(name="all")]},
    "another group": {"groups": [Group(name="friends", share=0.01)]},
    "another salt": {"salt": "chosen-by-a-thief"},
}


@pytest.mark.parametrize("name", BEYOND)
def test_an_automatic_plan_beyond_the_canary_group_is_refused(name: str, site: Site, folder: Path) -> None:
    release = site.release(1, automatic=True)
    site.plan(canary_plan(release, **BEYOND[name]), automatic=True)
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.plan(TASK, "r1", site.source)) == "plan_beyond_canary"


def test_an_automatic_plan_within_the_canary_group_is_believed(site: Site, folder: Path) -> None:
    release = site.release(1, automatic=True)
    site.plan(canary_plan(release), automatic=True)
    device = site.device(folder)
    device.refresh(site.source)
    found = device.plan(TASK, "r1", site.source)
    assert found and found.automatic and found.releases[0].automatic


def test_an_automatic_release_goes_no_further_by_any_other_plan(site: Site, folder: Path) -> None:
    site.plan(a_plan(site.release(1, automatic=True)))
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.plan(TASK, "r1", site.source)) == "plan_contradicted"


def test_the_automatic_key_cannot_sign_where_the_task_key_does(site: Site, folder: Path) -> None:
    release = site.release(1, automatic=True)
    role = auto_role(TASK)
    plan = a_plan(release)
    path = plan_path(TASK, "r1")
    target = site.repository.put_target(path, msgspec.json.encode(plan))
    site.publish_role(role, task=TASK, targets={path: target})
    site.online()
    device = site.device(folder)
    device.refresh(site.source)
    assert device.plan(TASK, "r1", site.source) is None


def test_a_delegation_without_a_canary_group_allows_none(site: Site, folder: Path) -> None:
    metadata = site.repository.fresh("targets")
    del metadata.signed.delegations.roles[auto_role(TASK)].unrecognized_fields[CANARY_FIELD]
    site.repository.sign("targets", metadata, [site.targets])
    site.repository.publish("targets", metadata)
    site.plan(canary_plan(site.release(1, automatic=True)), automatic=True)
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.plan(TASK, "r1", site.source)) == "plan_beyond_canary"


# --- sources, folders


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "metadata/../../x", "metadata//x", "a/.hidden", "http://x", "A", "", "x\n"]
)
def test_a_path_leads_nowhere_else(path: str, tmp_path: Path) -> None:
    with pytest.raises(TrustRefusedError):
        checked_path(path)
    with pytest.raises(TrustRefusedError):
        DirectorySource(tmp_path).fetch(path, 10)


def test_a_pipe_on_a_stick_does_not_hold_a_device(tmp_path: Path) -> None:
    import os

    (tmp_path / "metadata").mkdir()
    os.mkfifo(tmp_path / "metadata" / "timestamp.json")
    with pytest.raises(NotHereError):
        DirectorySource(tmp_path).fetch("metadata/timestamp.json", 10)


def test_two_processes_do_not_share_a_folder(site: Site, folder: Path) -> None:
    import fcntl

    site.device(folder).refresh(site.source)
    with (folder / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert reason(lambda: site.device(folder).refresh(site.source)) == "trust_in_use"


def test_a_steady_look_fetches_two_files_and_writes_none(site: Site, folder: Path) -> None:
    site.device(folder).refresh(site.source)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    source = Remembered.of(site.repository)
    site.device(folder).refresh(source)
    assert source.asked == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before


def test_a_device_starts_without_the_library_that_reads_metadata() -> None:
    import subprocess
    import sys

    code = "import sys, outrider_trust.client; sys.exit(any(name.split('.')[0] in ('tuf', 'securesystemslib') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_clock_of_a_fresh_device_is_the_real_one(site: Site, folder: Path) -> None:
    """The site of these tests lives in 2027: a device with a real clock is behind it."""
    device = TrustedMetadata(folder, shipped_root=site.root)
    assert Clock()() == NOW_S
    assert reason(lambda: device.refresh(site.source)) == "clock_behind"
