"""Data sets on disk: a folder of images with one sub-folder a class, a JSON-lines file."""

import json
from pathlib import Path

import numpy as np
import pytest

from outrider_export.data import UNLABELLED
from outrider_export.sources import from_folder, from_jsonl, task_from_folder
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import AnswerSpace, InputPart, Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, names in {"cat": ["a.png", "b.JPG", "notes.txt"], "dog": ["c.jpeg"], "empty": [], ".git": []}.items():
        (tmp_path / label).mkdir()
        for name in names:
            (tmp_path / label / name).write_bytes(f"{label}/{name}".encode())
    return tmp_path


def test_a_folder_states_a_task_and_its_rows(folder: Path) -> None:
    task = task_from_folder(folder, "pets")
    (folder / "empty").rmdir()
    table = from_folder(folder, task)

    assert task.labels == ["cat", "dog"]
    assert table.labels.tolist() == [0, 0, 1]
    assert table.groups == ["cat/a.png", "cat/b.JPG", "dog/c.jpeg"]
    assert table.parts(2) == {"image": b"dog/c.jpeg"}


def test_copies_of_a_file_share_a_group_so_that_they_share_a_role(folder: Path) -> None:
    (folder / "dog" / "copy.png").write_bytes(b"cat/a.png")
    task = task_from_folder(folder, "pets")
    (folder / "empty").rmdir()

    assert from_folder(folder, task).groups.count("cat/a.png") == 2


def test_a_sub_folder_that_is_no_label_is_named(folder: Path) -> None:
    task = task_from_folder(folder, "pets")

    with pytest.raises(OperatorConfigError, match="empty is not a label") as unknown:
        from_folder(folder, task)
    assert "cat" in unknown.value.fix


def test_a_folder_without_two_classes_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError) as few:
        task_from_folder(tmp_path, "pets")
    assert few.value.reason == "too_few_labels"


VQA = Task(
    name="vqa",
    inputs=[InputPart(name="image", modality="image"), InputPart(name="question", modality="text")],
    answer=AnswerSpace(labels=["yes", "no"]),
)


def jsonl(tmp_path: Path, *rows: object) -> Path:
    (tmp_path / "1.png").write_bytes(b"one")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def test_json_lines_hold_texts_and_paths_of_files(tmp_path: Path) -> None:
    parts = {"image": "1.png", "question": "is it red?"}
    file = jsonl(tmp_path, {"parts": parts, "label": "no", "group": "trip"}, {"parts": parts})
    table = from_jsonl(file, VQA)

    assert table.parts(0) == {"image": b"one", "question": "is it red?"}
    assert table.labels.tolist() == [1, UNLABELLED]
    assert table.groups == ["trip", "1.png"]
    assert np.array_equal(table.index["image"], [0, 0])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "not JSON"),
        ("[1]", "'parts' must hold exactly image, question"),
        ({"parts": {"image": "1.png"}}, "'parts' must hold exactly image, question"),
        ({"parts": {"image": "1.png", "question": "?"}, "label": "maybe"}, "'maybe' is no label"),
        ({"parts": {"image": "2.png", "question": "?"}}, r"2\.png cannot be read"),
        ({"parts": {"image": "1.png", "question": 7}}, "part 'question' is not a string"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, row: object, said: str) -> None:
    good = {"parts": {"image": "1.png", "question": "?"}, "label": "no"}

    with pytest.raises(OperatorConfigError, match=rf"rows\.jsonl:3: .*{said}"):
        from_jsonl(jsonl(tmp_path, good, row), VQA)


@pytest.mark.parametrize(
    ("modality", "suffix", "values"),
    [
        ("audio", ".wav", [b"RIFFa", b"RIFFb"]),
        ("text", ".txt", ["a goal", "żółw"]),
        ("series", ".f32", [b"1234", b"5678"]),
    ],
)
def test_a_folder_of_sounds_texts_or_numbers_states_its_task(
    modality: str, suffix: str, values: list[bytes | str], tmp_path: Path
) -> None:
    for label, value in zip("ab", values, strict=True):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"1{suffix}").write_bytes(value.encode() if isinstance(value, str) else value)
    task = task_from_folder(tmp_path, "t")
    table = from_folder(tmp_path, task)

    assert [part.modality for part in task.inputs] == [modality]
    assert [table.parts(row)[modality] for row in range(2)] == values


def test_a_folder_of_pictures_and_sounds_is_refused(tmp_path: Path) -> None:
    for label, name in (("a", "1.png"), ("b", "1.wav"), ("c", "2.wav"), ("d", "2.png")):
        (tmp_path / label).mkdir()
        (tmp_path / label / name).write_bytes(b"x")
    with pytest.raises(OperatorConfigError, match="files of image and audio"):
        task_from_folder(tmp_path, "t")


def test_a_text_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_bytes(b"\xff" + label.encode())
    with pytest.raises(OperatorConfigError, match=r"1\.txt is not UTF-8"):
        from_folder(tmp_path, task_from_folder(tmp_path, "t"))


SENSORS = Task(name="pump", inputs=[InputPart(name="s", modality="series")], answer=AnswerSpace(labels=["ok", "bad"]))


def test_json_lines_hold_numbers(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"parts": {"s": [[1, 2], [3, 4]]}, "label": "ok"}, {"parts": {"s": [1.5]}, "label": "bad"})
    table = from_jsonl(file, SENSORS)
    assert table.parts(0)["s"] == np.asarray([1, 2, 3, 4], "<f4").tobytes()
    assert table.parts(1)["s"] == np.asarray([1.5], "<f4").tobytes()


@pytest.mark.parametrize("numbers", [[], [[1], [2, 3]], ["a"], [[[1]]], [None, {}]])
def test_numbers_that_are_none_are_named_with_their_line(numbers: object, tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError, match=r"rows\.jsonl:1: .*no list of numbers"):
        from_jsonl(jsonl(tmp_path, {"parts": {"s": numbers}, "label": "ok"}), SENSORS)
