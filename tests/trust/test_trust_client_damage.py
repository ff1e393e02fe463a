"""What a device keeps of metadata is damaged: it refuses to forget, and is mended."""

from pathlib import Path

import pytest
from trust_world import TASK, Remembered, Site, reason

DAY_S = 86_400.0


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
