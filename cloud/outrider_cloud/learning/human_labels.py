"""A person's labels for what devices have sent: read line by line, matched to the store's examples. Knows no model.

An example is named by its input's id, or by the SHA-256 of one of its parts.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store.schema import examples
from outrider_wire.errors import OperatorConfigError
from outrider_wire.roles import ROLES

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_NAMES = ("id", "input", "sha256", "digest")
_HERE = examples.c


@dataclass(frozen=True, kw_only=True)
class HumanLabel:
    """One line."""

    line: int
    names: str
    """An input's id, or the SHA-256 of a part."""
    label: str


class Labelled(Struct, kw_only=True):
    """What an import came to."""

    new: dict[str, int]
    """Role → examples that had no label before."""
    changed: dict[str, int]
    """Role → examples that had another."""
    same: int
    """Examples that had that label already."""
    unknown: list[str]
    """Lines that name nothing in the store, or more than one thing."""
    foreign: list[str]
    """Lines whose label is no answer of the task."""


def read_labels(file: Path) -> list[HumanLabel]:
    """The lines of a CSV file with a header, or of JSON lines: ``id`` or ``sha256``, and ``label``.

    Raises:
        OperatorConfigError: with the line, what is wrong there and what to do.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorConfigError(
            f"{file} cannot be read: {error}", reason="unreadable_file", fix="name a CSV or a JSON-lines file"
        ) from error
    rows = _json_lines(file, text) if text.lstrip().startswith("{") else _csv_lines(text)
    found = [_label(file, line, row) for line, row in rows]
    if not found:
        raise OperatorConfigError(f"{file} holds no labels", reason="no_rows", fix="write a line for each: id,label")
    return found


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, written in enumerate(text.splitlines(), 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except json.JSONDecodeError as error:
            raise _wrong(file, line, f"not JSON: {error}", "write one JSON object a line") from error
        if not isinstance(row, dict):
            raise _wrong(file, line, "not a JSON object", 'write {"id": "…", "label": "…"}')
        yield line, row


def _csv_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines())
    for row in reader:
        yield reader.line_num, row


def _label(file: Path, line: int, row: dict[str, Any]) -> HumanLabel:
    names = next((str(row[name]).strip() for name in _NAMES if row.get(name)), "")
    label = row.get("label")
    if not names or not isinstance(label, str) or not label.strip():
        raise _wrong(file, line, "it does not say which input and which label", "give id (or sha256) and label")
    return HumanLabel(line=line, names=names, label=label.strip())


def apply(connection: sa.Connection, *, task: str, labels: Sequence[str], said: Sequence[HumanLabel]) -> Labelled:
    """Writes the labels to the task's escalations and audits, in one change; a repeated import changes nothing."""
    result = Labelled(new=dict.fromkeys(ROLES, 0), changed=dict.fromkeys(ROLES, 0), same=0, unknown=[], foreign=[])
    index = _Index(connection, task)
    for one in said:
        if one.label not in labels:
            result.foreign.append(f"line {one.line}: {one.label!r} is no answer of task {task}")
            continue
        rows = index.find(one.names)
        if not rows:
            result.unknown.append(f"line {one.line}: {index.why_none(one.names)}")
        for row in rows:
            _apply_one(connection, row, one.label, result)
            index.now[row.id] = one.label
    return result


def _apply_one(connection: sa.Connection, row: "_Row", label: str, result: Labelled) -> None:
    if row.label == label:
        result.same += 1
        return
    connection.execute(sa.update(examples).where(_HERE.id == row.id).values(label=label))
    counted = result.new if row.label is None else result.changed
    counted[row.role] += 1


@dataclass(frozen=True)
class _Row:
    id: int
    role: str
    label: str | None
    parts: dict[str, str]


class _Index:
    """The task's escalations and audits by what a person may call them."""

    def __init__(self, connection: sa.Connection, task: str) -> None:
        wanted = sa.select(_HERE.id, _HERE.input, _HERE.role, _HERE.label, _HERE.parts).where(
            _HERE.task == task, _HERE.source.in_(("escalation", "audit"))
        )
        self.now: dict[int, str] = {}
        """Labels that this import has given."""
        self._by_id: dict[str, list[_Row]] = {}
        self._by_part: dict[str, list[_Row]] = {}
        for row in connection.execute(wanted):
            mine = _Row(row.id, row.role, row.label, row.parts)
            self._by_id.setdefault(row.input or "", []).append(mine)
            for sha256 in set(row.parts.values()):
                self._by_part.setdefault(sha256, []).append(mine)

    def find(self, names: str) -> list[_Row]:
        """The examples of that name, all of one content; none where it names several."""
        rows = self._by_part.get(names.lower(), []) if _SHA256.match(names.lower()) else self._by_id.get(names, [])
        rows = rows or self._by_id.get(names, [])
        alike = len({tuple(sorted(row.parts.items())) for row in rows}) <= 1
        return [_Row(row.id, row.role, self.now.get(row.id, row.label), row.parts) for row in rows] if alike else []

    def why_none(self, names: str) -> str:
        """Why `find` gives none."""
        if names.lower() in self._by_part or names in self._by_id:
            return f"{names[:16]}… names several different inputs; give their ids"
        return f"{names[:40]!r} names no escalation and no audit in the store"


def _wrong(file: Path, line: int, what: str, fix: str) -> OperatorConfigError:
    return OperatorConfigError(f"{file}:{line}: {what}", reason="invalid_row", fix=fix)
