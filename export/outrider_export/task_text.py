"""A task as the TOML text that `outrider_wire.task.parse_task` reads back. Reads and writes no files."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from outrider_wire.task import Task


def task_to_toml(task: Task) -> str:
    """TOML that parses to an equal task; the same task gives the same text."""
    data = msgspec.to_builtins(task)
    tables = {name: value for name, value in data.items() if isinstance(value, Mapping)}
    lists = {name: value for name, value in data.items() if isinstance(value, list)}
    blocks = [_pairs({name: value for name, value in data.items() if name not in tables | lists})]
    blocks += [f"[[{name}]]\n{_pairs(entry)}" for name, entries in lists.items() for entry in entries]
    blocks += [f"[{name}]\n{_pairs(values)}" for name, values in tables.items()]
    return "\n".join(blocks)


def _pairs(values: Mapping[str, Any]) -> str:
    """TOML has no null: what is not set is left out."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in values.items() if value is not None)


def _value(value: Any) -> str:
    """Tables inline; strings as JSON writes them are TOML's too, but for DEL, which TOML wants escaped."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_value(key)} = {_value(held)}' for key, held in value.items() if held is not None)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
