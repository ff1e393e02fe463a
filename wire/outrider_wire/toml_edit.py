"""Settings put into TOML text that a person wrote, their comments and order kept. Pure; reads and writes no file."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from outrider_wire.errors import OperatorConfigError

Value = str | int | float | bool | Sequence[str]
_HEADER = re.compile(r"\s*\[")


def with_settings(text: str, settings: Mapping[str, Mapping[str, Value]], source: str) -> str:
    """``text`` in which every key of every table (``""``: before all tables) has the given value.

    A key that is there is replaced in its line, one that is not stands at the head of its table, an absent table comes last.

    Raises:
        OperatorConfigError: ``source`` is not TOML, or is written in a way that this cannot change (a value over several lines).
    """
    before = _parsed(text, source)
    lines = text.splitlines()
    for table, values in settings.items():
        lines = _with_table(lines, table, values)
    after = "\n".join(lines) + "\n"
    wanted = {**before}
    for table, values in settings.items():
        plain = {key: list(value) if isinstance(value, list | tuple) else value for key, value in values.items()}
        wanted |= {table: {**before.get(table, {}), **plain}} if table else plain
    try:
        if tomllib.loads(after) == wanted:
            return after
    except tomllib.TOMLDecodeError:
        pass
    raise OperatorConfigError(
        f"{source} cannot be changed by itself", reason="not_editable", fix=f"write into it: {_in_one_line(settings)}"
    )


def _with_table(lines: list[str], table: str, values: Mapping[str, Value]) -> list[str]:
    if not table:
        begin, lines = 0, list(lines)
    else:
        header = re.compile(rf"\s*\[\s*{re.escape(table)}\s*\]\s*(#.*)?")
        found = [number for number, line in enumerate(lines) if header.fullmatch(line)]
        if not found:
            return [*lines, *([""] if lines else []), f"[{table}]", *(_line(key, values[key]) for key in values)]
        begin, lines = found[0] + 1, list(lines)
    end = next((number for number in range(begin, len(lines)) if _HEADER.match(lines[number])), len(lines))
    added = []
    for key, value in values.items():
        place = re.compile(rf'\s*"?{re.escape(key)}"?\s*=')
        number = next((at for at in range(begin, end) if place.match(lines[at])), None)
        if number is None:
            added.append(_line(key, value))
        else:
            lines[number] = _line(key, value)
    if not table:
        while begin < end and (lines[begin].startswith("#") or not lines[begin].strip()):
            begin += 1  # what a file says at its head stays its head
    return [*lines[:begin], *added, *([""] if added and not table and begin < len(lines) else []), *lines[begin:]]


def _line(key: str, value: Value) -> str:
    return f"{key} = {_shown(value)}"


def _shown(value: Value) -> str:
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    return f"[{', '.join(json.dumps(each, ensure_ascii=False) for each in value)}]"


def _in_one_line(settings: Mapping[str, Mapping[str, Value]]) -> str:
    tables = (
        ((f"[{table}] " if table else "") + ", ".join(_line(key, value) for key, value in values.items()))
        for table, values in settings.items()
    )
    return "; ".join(tables)


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OperatorConfigError(
            f"{source}: not valid TOML: {error}", reason="invalid_toml", fix="correct that line"
        ) from error
