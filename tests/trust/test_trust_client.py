"""A device believes what is signed, and finds it wherever it is kept. Real keys, real metadata."""

from pathlib import Path

import pytest
from trust_world import NOW_S, TASK, Clock, Remembered, Site, a_plan, reason

from outrider_trust.client import TrustedMetadata
from outrider_trust.sources import DirectorySource, NotHereError, checked_path
from outrider_wire.errors import TrustRefusedError

DAY_S = 86_400.0


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
