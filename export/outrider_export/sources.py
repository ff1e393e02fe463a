"""Data sets as people keep them: a folder with one sub-folder a class, or a JSON-lines file. Knows no model."""

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from outrider_export.data import UNLABELLED, Example, Table
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import AnswerSpace, InputPart, Task

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def task_from_folder(folder: Path, name: str) -> Task:
    """The task that a folder of labelled images states: one image part, one label a sub-folder, default policy.

    Raises:
        OperatorConfigError: not a folder, or fewer than two sub-folders with images.
    """
    labels = [each.name for each in _classes(folder) if any(_images(each))]
    if len(labels) < 2:
        raise OperatorConfigError(
            f"{folder} has {len(labels)} sub-folder(s) with PNG or JPEG images, and a task needs at least 2 answers",
            reason="too_few_labels",
            fix="make one sub-folder a class, named after its label, and put that class's images there",
        )
    return Task(name=name, inputs=[InputPart(name="image", modality="image")], answer=AnswerSpace(labels=labels))


def from_folder(folder: Path, task: Task) -> Table:
    """Every image of a folder with one sub-folder a class. Files with the same bytes share a group, named after the first.

    Raises:
        OperatorConfigError: a sub-folder that is no label of the task, or a task that is not one image.
    """
    if [part.modality for part in task.inputs] != ["image"]:
        raise OperatorConfigError(
            f"a folder of images holds one image an example, and task {task.name} has other parts",
            reason="wrong_parts",
            fix="describe the rows in a JSON-lines file",
        )
    return Table.from_examples(_folder_rows(folder, task))


def _folder_rows(folder: Path, task: Task) -> Iterator[Example]:
    number = {label: place for place, label in enumerate(task.labels)}
    groups: dict[bytes, str] = {}
    for each in _classes(folder):
        if each.name not in number:
            raise OperatorConfigError(
                f"{each} is not a label of task {task.name}",
                reason="unknown_label",
                fix=f"rename the sub-folder to one of {', '.join(task.labels[:8])}, or move it elsewhere",
            )
        for file in _images(each):
            data = file.read_bytes()
            group = groups.setdefault(data, file.relative_to(folder).as_posix())
            yield Example({task.inputs[0].name: data}, number[each.name], group)


def _classes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise OperatorConfigError(f"{folder} is not a folder", reason="no_such_folder", fix="point --data at a folder")
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def from_jsonl(file: Path, task: Task) -> Table:
    """One row a line: ``{"parts": {"image": "a.png", "question": "what is it?"}, "label": "cat", "group": "trip-7"}``.

    A text part is the text itself; any other part is a path relative to the file. ``label`` may be absent (unlabelled);
    ``group`` defaults to the row's first path, else to its line number.

    Raises:
        OperatorConfigError: with the file, the line and what is wrong there.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorConfigError(f"{file} cannot be read: {error}", reason="unreadable_file") from error
    reader = _RowReader(file, task)
    return Table.from_examples(reader.row(text, line) for line, text in enumerate(lines, 1) if text.strip())


class RowNote(NamedTuple):
    """What a JSON-lines row says of itself beside its parts and its label."""

    role: str
    """'' where it names none."""
    time_s: float | None
    grouped: bool


def notes_of(file: Path) -> list[RowNote]:
    """The keys ``role``, ``time`` (seconds, or ISO 8601) and ``group`` of each row of a file that `from_jsonl` reads, in its order.

    Raises:
        OperatorConfigError: a time that is none.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    return [_note(file, line, json.loads(text)) for line, text in enumerate(lines, 1) if text.strip()]


def _note(file: Path, line: int, row: dict[str, Any]) -> RowNote:
    time = row.get("time")
    try:
        seconds = None if time is None else seconds_of(time)
    except ValueError as error:
        raise OperatorConfigError(
            f"{file}:{line}: {time!r} is no time", reason="invalid_row", fix="write seconds, or 2026-11-26T09:30:00"
        ) from error
    return RowNote(str(row.get("role") or ""), seconds, bool(row.get("group")))


def seconds_of(written: str | float) -> float:
    """A time as seconds, from a finite number or from ISO 8601.

    Raises:
        ValueError: it is neither.
    """
    try:
        seconds = float(written)
    except ValueError:
        return datetime.fromisoformat(str(written)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError(f"{written!r} is no moment")
    return seconds


class _RowReader:
    def __init__(self, file: Path, task: Task) -> None:
        self._file = file
        self._task = task
        self._number = {label: place for place, label in enumerate(task.labels)}
        self._loaded: dict[str, bytes] = {}

    def row(self, text: str, line: int) -> Example:
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise self._wrong(line, f"not JSON: {error}", "write one JSON object a line") from error
        parts = row.get("parts") if isinstance(row, dict) else None
        names = [part.name for part in self._task.inputs]
        if not isinstance(parts, dict) or sorted(parts) != sorted(names):
            raise self._wrong(line, f"'parts' must hold exactly {', '.join(names)}", "see the task's inputs")
        label = row.get("label")
        if label is not None and label not in self._number:
            raise self._wrong(line, f"{label!r} is no label of task {self._task.name}", "correct the label")
        paths = [parts[part.name] for part in self._task.inputs if part.modality != "text"]
        return Example(
            {part.name: self._value(parts[part.name], part, line) for part in self._task.inputs},
            UNLABELLED if label is None else self._number[label],
            str(row.get("group") or (paths[0] if paths else f"line-{line}")),
        )

    def _value(self, value: Any, part: InputPart, line: int) -> bytes | str:
        if not isinstance(value, str):
            raise self._wrong(line, f"part {part.name!r} is not a string", "give the text, or the path of a file")
        if part.modality == "text":
            return value
        if value not in self._loaded:
            try:
                self._loaded[value] = (self._file.parent / value).read_bytes()
            except OSError as error:
                raise self._wrong(line, f"{value} cannot be read: {error}", "paths are relative to the file") from error
        return self._loaded[value]

    def _wrong(self, line: int, what: str, fix: str) -> OperatorConfigError:
        return OperatorConfigError(f"{self._file}:{line}: {what}", reason="invalid_row", fix=fix)
