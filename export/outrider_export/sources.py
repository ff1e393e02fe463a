"""Data sets as people keep them: a folder of files with one sub-folder a class, or a JSON-lines file. Knows no model."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from outrider_export.data import UNLABELLED, Example, Table
from outrider_wire.errors import OperatorConfigError
from outrider_wire.messages import Modality
from outrider_wire.task import AnswerSpace, InputPart, Task

FILES: Mapping[Modality, frozenset[str]] = {
    "image": frozenset({".png", ".jpg", ".jpeg"}),
    "audio": frozenset({".wav"}),
    "text": frozenset({".txt"}),
    "series": frozenset({".f32"}),
}
"""Modality → how its files end: pictures, sounds, one UTF-8 text a file, float32 numbers row after row."""


def task_from_folder(folder: Path, name: str) -> Task:
    """The task that a folder of labelled files states: one part of their modality, one label a sub-folder, default policy.

    Raises:
        OperatorConfigError: not a folder, fewer than two sub-folders with files of one modality, or files of several.
    """
    classes = _classes(folder)
    found = {modality: [each.name for each in classes if any(_files(each, modality))] for modality in FILES}
    # A note beside pictures is no example; texts count where there is nothing else.
    several = [modality for modality, labels in found.items() if labels and modality != "text"]
    if len(several) > 1:
        raise OperatorConfigError(
            f"{folder} holds files of {' and '.join(several)}",
            reason="mixed_files",
            fix="keep one kind in it, or describe the rows in a JSON-lines file",
        )
    modality: Modality = several[0] if several else "text"
    labels = found[modality]
    if len(labels) < 2:
        kinds = ", ".join(suffix for suffixes in FILES.values() for suffix in sorted(suffixes))
        raise OperatorConfigError(
            f"{folder} has {len(labels)} sub-folder(s) with files of one kind ({kinds}), and a task needs at least 2 answers",
            reason="too_few_labels",
            fix="make one sub-folder a class, named after its label, and put that class's files there",
        )
    return Task(name=name, inputs=[InputPart(name=modality, modality=modality)], answer=AnswerSpace(labels=labels))


def from_folder(folder: Path, task: Task) -> Table:
    """Every file of a folder with one sub-folder a class. Files with the same bytes share a group, named after the first.

    Raises:
        OperatorConfigError: a sub-folder that is no label of the task, or a task of several parts.
    """
    if len(task.inputs) != 1:
        raise OperatorConfigError(
            f"a folder holds one file an example, and task {task.name} has {len(task.inputs)} parts",
            reason="wrong_parts",
            fix="describe the rows in a JSON-lines file",
        )
    return Table.from_examples(_folder_rows(folder, task))


def _folder_rows(folder: Path, task: Task) -> Iterator[Example]:
    number = {label: place for place, label in enumerate(task.labels)}
    part = task.inputs[0]
    groups: dict[bytes, str] = {}
    for each in _classes(folder):
        if each.name not in number:
            raise OperatorConfigError(
                f"{each} is not a label of task {task.name}",
                reason="unknown_label",
                fix=f"rename the sub-folder to one of {', '.join(task.labels[:8])}, or move it elsewhere",
            )
        for file in _files(each, part.modality):
            data = file.read_bytes()
            group = groups.setdefault(data, file.relative_to(folder).as_posix())
            value = _text(file, data) if part.modality == "text" else data
            yield Example({part.name: value}, number[each.name], group)


def passed_over(folder: Path, task: Task) -> str:
    """What lies in the sub-folders and is no example, in a sentence; '' where nothing does."""
    modality = task.inputs[0].modality
    files = (file for each in _classes(folder) for file in each.iterdir() if not file.name.startswith("."))
    strange = Counter(
        file.suffix.lower() or "no ending" for file in files if file.suffix.lower() not in FILES[modality]
    )
    if not strange:
        return ""
    kinds = ", ".join(f"{count} of {suffix}" for suffix, count in strange.most_common(4))
    known = ", ".join(sorted(FILES[modality]))
    return f"WARNING: {strange.total()} files were passed over ({kinds}): only {known} count, directly in a sub-folder"


def from_pile(folder: Path, task: Task) -> Table:
    """Every file of a folder and of its sub-folders, unlabelled. Files with the same bytes are one row.

    Raises:
        OperatorConfigError: there is none of the task's kind, or the task has several parts.
    """
    if not folder.is_dir() or len(task.inputs) != 1:
        raise OperatorConfigError(
            f"{folder} does not give the inputs of task {task.name}",
            reason="wrong_parts",
            fix="point at a folder of files, for a task of one part; else at a JSON-lines file",
        )
    part = task.inputs[0]
    files = (file for each in [folder, *_classes(folder)] for file in _files(each, part.modality))
    found = {file.read_bytes(): file for file in files}
    return Table.from_examples(
        Example({part.name: _text(file, data) if part.modality == "text" else data}, UNLABELLED, str(file))
        for data, file in found.items()
    )


def _text(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OperatorConfigError(
            f"{file} is not UTF-8 text", reason="unreadable_file", fix="save it as UTF-8"
        ) from error


def _classes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise OperatorConfigError(f"{folder} is not a folder", reason="no_such_folder", fix="point --data at a folder")
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _files(folder: Path, modality: Modality) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix.lower() in FILES[modality] and file.is_file())


def from_jsonl(file: Path, task: Task) -> Table:
    """One row a line: ``{"parts": {"image": "a.png", "question": "what is it?"}, "label": "cat", "group": "trip-7"}``.

    A text part is the text itself, a series its numbers (a list, or a list of rows); any other part, and a series too, may be a
    path relative to the file. ``label`` may be absent (unlabelled); ``group`` defaults to the row's first path, else to its line number.

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
        named = [parts[part.name] for part in self._task.inputs if part.modality != "text"]
        paths = [path for path in named if isinstance(path, str)]
        return Example(
            {part.name: self._value(parts[part.name], part, line) for part in self._task.inputs},
            UNLABELLED if label is None else self._number[label],
            str(row.get("group") or (paths[0] if paths else f"line-{line}")),
        )

    def _value(self, value: Any, part: InputPart, line: int) -> bytes | str:
        if part.modality == "series" and isinstance(value, list):
            return self._numbers(value, part, line)
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

    def _numbers(self, value: list[Any], part: InputPart, line: int) -> bytes:
        try:
            numbers = np.asarray(value, "<f4")
        except (TypeError, ValueError, OverflowError) as error:
            raise self._wrong(line, f"part {part.name!r} is no list of numbers", "give every row as many") from error
        if numbers.ndim not in (1, 2) or not numbers.size:
            raise self._wrong(line, f"part {part.name!r} is no list of numbers", "give a list, or a list of rows")
        return numbers.tobytes()

    def _wrong(self, line: int, what: str, fix: str) -> OperatorConfigError:
        return OperatorConfigError(f"{self._file}:{line}: {what}", reason="invalid_row", fix=fix)
