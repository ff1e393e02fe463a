"""``OUTRIDER_EDGE_API_PORT=9000`` instead of a line in the file: every scalar setting, by its place. Reads no file.

The variable of a setting is the prefix of its kind and the keys that lead to it, joined by ``_``. Lists of text are split
at commas; tables that repeat (``[[tasks]]``) have no variables. A path means what it would mean in the file.
"""

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorConfigError

RESERVED = ("CONFIG",)
"""What the prefix may be followed by without being a setting: the flags of the command line."""


def overrides_from(kind: type[msgspec.Struct], prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of ``kind`` that ``environment`` holds, nested like the file.

    Raises:
        OperatorConfigError: a variable with the prefix names no setting (with the nearest), or holds no value of its type.
    """
    known = {f"{prefix}_{'_'.join(path).upper()}": (path, type_) for path, type_ in settings_of(kind)}
    overrides: dict[str, Any] = {}
    for name in sorted(environment):
        if not name.startswith(f"{prefix}_") or name.removeprefix(f"{prefix}_") in RESERVED:
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"did you mean {near[0]}?" if near else "unset it"
            raise OperatorConfigError(f"environment: {name} names no setting", reason="unknown_key", fix=fix)
        path, type_ = known[name]
        table = overrides
        for key in path[:-1]:
            table = table.setdefault(key, {})
        table[path[-1]] = _value(name, environment[name], type_)
    return overrides


def settings_of(kind: type[msgspec.Struct], under: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and type of every setting that one variable can hold."""
    for field in msgspec.structs.fields(kind):
        path, inner = (*under, field.encode_name), _bare(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from settings_of(inner, path)
        elif not _repeats(inner):
            yield path, field.type


def _bare(type_: Any) -> Any:
    """Without ``Annotated``."""
    return typing.get_args(type_)[0] if typing.get_origin(type_) is typing.Annotated else type_


def _is_list(type_: Any) -> bool:
    return typing.get_origin(type_) in (list, tuple)


def _repeats(type_: Any) -> bool:
    """A list of tables, or a table with keys of its own."""
    return typing.get_origin(type_) is dict or (_is_list(type_) and _bare(typing.get_args(type_)[0]) is not str)


def _value(name: str, text: str, type_: Any) -> Any:
    plain: Any = [each.strip() for each in text.split(",") if each.strip()] if _is_list(_bare(type_)) else text
    try:
        return msgspec.to_builtins(msgspec.convert(plain, decodable(type_), strict=False))
    except msgspec.ValidationError as error:
        raise OperatorConfigError(
            f"environment: {name}={text!r}: {error}", reason="invalid_value", fix="correct the value, or unset it"
        ) from error
