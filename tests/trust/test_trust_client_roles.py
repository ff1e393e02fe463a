"""Which key may say what to a device, and what becomes of one that was changed or taken back."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from trust_world import CANARY, TASK, Remembered, Site, a_plan, reason
from tuf.api.metadata import TargetFile

from outrider_trust.facts import CANARY_FIELD, auto_role, plan_path, release_path
from outrider_trust.repository import delegate
from outrider_wire.rollout import Group, PlannedRelease

DAY_S = 86_400.0


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
