"""A device refuses every attack of whoever serves metadata, by name. Real keys, real metadata."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from trust_world import NOW_S, TASK, Clock, Remembered, Site, reason
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater

from outrider_trust.durable import SourceFetcher
from outrider_trust.sources import DirectorySource
from outrider_wire.errors import TrustClockError, TrustDamagedError, UnreachableError

DAY_S = 86_400.0


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
