"""TOML text to a frozen value, strictly. Knows how to explain what is wrong with it; reads no file itself."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorConfigError

T = TypeVar("T")


def parse_toml(
    text: str,
    kind: type[T],
    source: str,
    overrides: Mapping[str, Any] | None = None,
    below: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> T:
    """``text`` as a ``kind`` (a `msgspec.Struct` that forbids unknown fields); ``overrides``, nested like it, win.

    Args:
        text: TOML.
        kind: what it should be.
        source: where it comes from, for people.
        overrides: win over the text.
        below: settings that give way to the text and the overrides, given both.

    Raises:
        OperatorConfigError: ``source``, the line, what is wrong there, and for an unknown key the nearest known one.
    """
    data = merged(read_toml(text, source), overrides or {})
    return convert(merged(below(data), data) if below else data, kind, source, text)


def read_toml(text: str, source: str) -> dict[str, Any]:
    """``text`` as plain data.

    Raises:
        OperatorConfigError: it is not valid TOML (``source``, and the line), or nests deeper than is read.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise OperatorConfigError(
            f"{source}: it nests deeper than any configuration", reason="invalid_toml", fix="flatten it"
        ) from error
    except ValueError as error:  # tomllib.TOMLDecodeError is one; so is a number of thousands of digits
        raise OperatorConfigError(
            f"{source}: not valid TOML: {error}"[:500], reason="invalid_toml", fix="correct that line"
        ) from error


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, table by table; ``over`` wins."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def convert(data: object, kind: type[T], source: str, text: str = "") -> T:
    """Plain data (from TOML, with overrides applied) as a ``kind``; errors as `parse_toml`."""
    try:
        return msgspec.convert(data, decodable(kind))
    except msgspec.ValidationError as error:
        raise _explained(str(error), kind, source, text) from error


def _explained(problem: str, kind: Any, source: str, text: str) -> OperatorConfigError:
    unknown = re.search(r"unknown field `([^`]*)`", problem)
    path = re.search(r"at `\$([^`]*)`", problem)
    where = re.findall(r"[A-Za-z_][A-Za-z0-9_-]*", path[1]) if path else []
    key = unknown[1] if unknown else (where[-1] if where else "")
    line = _line_of(text, where[:-1] if not unknown else where, key)
    place = f"{source}:{line}" if line else source
    if unknown:
        known = _fields_at(kind, where)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return OperatorConfigError(f"{place}: unknown key {key!r}", reason="unknown_key", fix=fix)
    return OperatorConfigError(f"{place}: {problem}", reason="invalid_value", fix="correct the value")


def _fields_at(kind: Any, where: list[str]) -> list[str]:
    """Encoded field names of the struct at a path of keys, looking through lists, dicts and unions."""
    info: Any = msgspec.inspect.type_info(kind)
    for key in where:
        info = _struct_in(info)
        field = next((f for f in getattr(info, "fields", ()) if f.encode_name == key), None)
        if field is None:
            return []
        info = field.type
    return [f.encode_name for f in getattr(_struct_in(info), "fields", ())]


def _struct_in(info: Any) -> Any:
    for inner in ("item_type", "value_type"):
        if hasattr(info, inner):
            return _struct_in(getattr(info, inner))
    for member in getattr(info, "types", ()):
        if hasattr(found := _struct_in(member), "fields"):
            return found
    return info


def _line_of(text: str, tables: list[str], key: str) -> int:
    """The line where ``key`` is set, preferring one under the last of ``tables``; 0 when it is nowhere."""
    under, fallback = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            under = header[1]
            if key and under.split(".")[-1].strip('"') == key and not fallback:
                fallback = number
        elif key and re.match(rf'\s*"?{re.escape(key)}"?\s*=', line):
            if not tables or under.split(".")[-1].strip('"') == tables[-1]:
                return number
            fallback = fallback or number
    return fallback
