"""A CSV file of scored rows, read and checked line by line. Certifies nothing."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from outrider_export.rows import RowRole, ScoredRows
from outrider_export.sources import seconds_of
from outrider_wire.errors import OperatorConfigError

TRUE, FALSE = frozenset({"1", "true", "yes", "t"}), frozenset({"0", "false", "no", "f"})
_ROLES: Mapping[str, RowRole] = {"tuning": "tuning", "certification": "certification"}
_NAMED = {"group": "group", "stratum": "stratum", "role": "role", "time": "time", "label": "label"}
"""Columns that are taken where they are there."""
_IDENTITY = ("sha256", "digest", "id", "input", "path", "file")
"""Columns that say what a row is about: two rows with the same are copies."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what."""

    score: str = "score"
    correct: str = "correct"
    group: str = ""
    """'' takes ``group`` where there is one."""


def read_rows(file: Path, columns: Columns) -> ScoredRows:
    """The rows of a CSV file with a header.

    Raises:
        OperatorConfigError: with the line, what is wrong there and what to do.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            names = _present(file, header, columns)
            return _RowReader(file, columns, names).read(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OperatorConfigError(
            f"{file} cannot be read: {error}", reason="unreadable_file", fix="name a CSV file with a header"
        ) from error


def _present(file: Path, header: list[str], columns: Columns) -> dict[str, str]:
    """What is there of `_NAMED`: meaning → column."""
    for column, flag in (
        (columns.score, "--score-col"),
        (columns.correct, "--correct-col"),
        (columns.group, "--group"),
    ):
        if column and column not in header:
            raise OperatorConfigError(
                f"{file} has no column {column!r}",
                reason="no_such_column",
                fix=f"name one of {', '.join(header[:12])} with {flag}",
            )
    names = {meaning: column for meaning, column in _NAMED.items() if column in header}
    return names | ({"group": columns.group} if columns.group else {})


class _RowReader:
    def __init__(self, file: Path, columns: Columns, names: Mapping[str, str]) -> None:
        self._file, self._columns, self._names = file, columns, names

    def read(self, reader: "csv.DictReader[str]") -> ScoredRows:
        rows = list(self._numbered(reader))
        scores = [self._score(row, line) for line, row in rows]
        right = [self._right(row, line) for line, row in rows]
        return ScoredRows(
            scores=np.asarray(scores, np.float64),
            right=np.asarray(right, np.bool_),
            groups=self._column("group", rows, needed=True),
            roles=[self._role(row, line) for line, row in rows] if "role" in self._names else [],
            strata=self._column("stratum", rows, needed=True),
            classes=self._column("label", rows, needed=False),
            times=np.asarray(
                [self._time(row, line) for line, row in rows] if "time" in self._names else [], np.float64
            ),
            contents=self._contents(rows),
        )

    def _numbered(self, reader: "csv.DictReader[str]") -> Iterator[tuple[int, dict[str, str]]]:
        for row in reader:
            if None in row or None in row.values():
                raise self._wrong(reader.line_num, "it has more or fewer fields than the header", "correct the line")
            yield reader.line_num, {name: value.strip() for name, value in row.items()}

    def _score(self, row: Mapping[str, str], line: int) -> float:
        text = row[self._columns.score]
        try:
            return float(text) if text else math.nan
        except ValueError as error:
            raise self._wrong(line, f"{text!r} is no score", "write a number; -inf: never kept") from error

    def _right(self, row: Mapping[str, str], line: int) -> bool:
        text = row[self._columns.correct].lower()
        if text not in TRUE | FALSE:
            raise self._wrong(line, f"{text!r} does not say whether the answer is right", "write 1 or 0, true or false")
        return text in TRUE

    def _role(self, row: Mapping[str, str], line: int) -> RowRole:
        text = row[self._names["role"]].lower()
        if not text:
            raise self._wrong(line, "it has no role", "write tuning, certification, or what else the row was used for")
        return _ROLES.get(text, "other")

    def _time(self, row: Mapping[str, str], line: int) -> float:
        text = row[self._names["time"]]
        try:
            return seconds_of(text)
        except ValueError as error:
            raise self._wrong(line, f"{text!r} is no time", "write seconds, or 2026-11-26T09:30:00") from error

    def _column(self, meaning: str, rows: list[tuple[int, dict[str, str]]], *, needed: bool) -> list[str]:
        if meaning not in self._names:
            return []
        column = self._names[meaning]
        if needed and (empty := [line for line, row in rows if not row[column]]):
            raise self._wrong(empty[0], f"column {column!r} is empty", "name one, or leave the column out")
        return [row[column] for _, row in rows]

    def _contents(self, rows: list[tuple[int, dict[str, str]]]) -> list[str]:
        """What each row is about, by the first column that all fill; [] where none says anything."""
        filled = {name: [row[name] for _, row in rows if row.get(name)] for name in _IDENTITY}
        whole = next((column for column in filled.values() if len(column) == len(rows)), [])
        if whole or not any(filled.values()):
            return whole
        name = next(name for name, column in filled.items() if column)
        line = next(line for line, row in rows if not row.get(name))
        raise self._wrong(
            line, f"column {name!r} is empty, and copies cannot be seen", "fill it in, or leave the column out"
        )

    def _wrong(self, line: int, what: str, fix: str) -> OperatorConfigError:
        return OperatorConfigError(f"{self._file}:{line}: {what}", reason="invalid_row", fix=fix)
