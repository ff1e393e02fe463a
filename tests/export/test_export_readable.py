"""What a person meets who points a fit at a folder that is not what they think: all of it at once, before anything is trained."""

from pathlib import Path

import pytest
from waves import tone, wav

import factory
from outrider.fitting import Fitting
from outrider_export.readable import check_readable
from outrider_export.sources import from_folder, passed_over, task_from_folder
from outrider_export.split import foresee, split
from outrider_wire.errors import OperatorConfigError
from outrider_wire.roles import DEFAULT_SHARES

GOOD = factory.png((200, 30, 30), size=8)
SPOILT = {"cut.png": GOOD[: len(GOOD) // 2], "empty.png": b"", "page.png": b"<html>not found</html>"}


def photos(folder: Path, n: int = 6) -> Path:
    for label in ("blue", "red"):
        (folder / label).mkdir(parents=True)
        for number in range(n):
            (folder / label / f"{number}.png").write_bytes(factory.png((number, 30, 200 * (label == "blue")), size=8))
    return folder


def test_every_picture_that_does_not_decode_is_named_before_anything_is_written(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    task = task_from_folder(folder, "photos")
    check_readable(from_folder(folder, task), task)
    for name, data in SPOILT.items():
        (folder / "red" / name).write_bytes(data)
    with (
        pytest.raises(OperatorConfigError) as refused,
        Fitting(task=task, data=folder, out=tmp_path / "out", seed=0),
    ):
        pass
    assert refused.value.reason == "unreadable_inputs"
    assert refused.value.what.startswith("3 input(s) cannot be read")
    assert all(f"red/{name}" in refused.value.what for name in SPOILT)
    assert not (tmp_path / "out").exists()


def test_a_sound_that_is_none_and_a_text_above_its_bound_are_named(tmp_path: Path) -> None:
    for label in ("high", "low"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.wav").write_bytes(wav(tone(300.0, seconds=0.1)))
    task = task_from_folder(tmp_path, "pitches")
    check_readable(from_folder(tmp_path, task), task)
    (tmp_path / "low" / "b.wav").write_bytes(b"RIFF")
    (tmp_path / "low" / "c.wav").write_bytes(b"\0" * (task.inputs[0].max_bytes + 1))
    with pytest.raises(OperatorConfigError, match=r"low/b\.wav: .*low/c\.wav: .* bytes, and the task allows"):
        check_readable(from_folder(tmp_path, task), task)


def test_of_many_faults_a_few_are_named_and_the_others_counted(tmp_path: Path) -> None:
    folder = photos(tmp_path, 1)
    for number in range(9):
        (folder / "red" / f"bad-{number}.png").write_bytes(bytes([number]))
    task = task_from_folder(folder, "photos")
    with pytest.raises(OperatorConfigError, match=r"9 input.*and 4 more"):
        check_readable(from_folder(folder, task), task)


def test_files_of_another_kind_are_passed_over_and_that_is_said(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    task = task_from_folder(folder, "photos")
    assert passed_over(folder, task) == ""
    (folder / "red" / "new.webp").write_bytes(b"")
    (folder / "red" / "more").mkdir()
    (folder / "red" / ".hidden").write_bytes(b"")
    said = passed_over(folder, task)
    assert said.startswith("WARNING: 2 files were passed over") and ".webp" in said and ".png" in said


def test_labels_with_hardly_a_row_to_train_on_are_warned_of(tmp_path: Path) -> None:
    folder = photos(tmp_path, 120)
    for number in range(5, 120):
        (folder / "red" / f"{number}.png").unlink()
    task = task_from_folder(folder, "photos")
    said = foresee(split(from_folder(folder, task), key="k", shares=DEFAULT_SHARES), task).sentences
    [warned] = [each for each in said if "rows to train on" in each]
    assert "red (" in warned and "blue" not in warned
