"""The kinds of file that a person writes: edge.toml, cloud.toml, tasks, device profiles. Knows which is which, and a value's origin."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from outrider.environment import overrides_from, settings_of
from outrider_link.settings import read_text
from outrider_wire.errors import OperatorConfigError
from outrider_wire.profile import Profile, parse_profile
from outrider_wire.settings import merged
from outrider_wire.task import Task, parse_task


class FileKind(StrEnum):
    """The kinds."""

    EDGE = "edge"
    CLOUD = "cloud"
    TASK = "task"
    PROFILE = "profile"


Origin = Literal["default", "profile", "file", "environment"]


class Setting(NamedTuple):
    """One value in force."""

    name: str
    value: Any
    origin: Origin


def prefix(kind: FileKind) -> str:
    """What the variables of that kind begin with."""
    return f"OUTRIDER_{kind.upper()}"


def struct_of(kind: FileKind) -> type[msgspec.Struct]:
    """The type that a file of that kind must fit."""
    if kind is FileKind.EDGE:
        from outrider_edge.config import EdgeConfig

        return EdgeConfig
    if kind is FileKind.CLOUD:
        from outrider_cloud.config import CloudConfig

        return CloudConfig
    return Profile if kind is FileKind.PROFILE else Task


def environment_of(kind: FileKind) -> dict[str, Any]:
    """Overrides that the environment holds for that kind; a task and a profile take none."""
    if kind in (FileKind.TASK, FileKind.PROFILE):
        return {}
    return overrides_from(struct_of(kind), prefix(kind), os.environ)


def load(kind: FileKind, path: Path) -> msgspec.Struct:
    """The checked value of a file, the environment applied.

    Raises:
        OperatorConfigError: with file, line, what is wrong there and what to do.
    """
    if kind is FileKind.EDGE:
        from outrider_edge.config import load_edge_config

        return load_edge_config(path, environment_of(kind))
    if kind is FileKind.CLOUD:
        from outrider_cloud.config import load_cloud_config

        return load_cloud_config(path, environment_of(kind))
    return parse_profile(read_text(path), str(path)) if kind is FileKind.PROFILE else read_task(path)


def read_task(path: Path) -> Task:
    """The task in a file.

    Raises:
        OperatorConfigError: it cannot be read, or is no task.
    """
    return parse_task(read_text(path), str(path))


def kind_of(path: Path) -> FileKind:
    """Which kind a file is, by its name, else by the keys that it sets.

    Raises:
        OperatorConfigError: neither tells.
    """
    for kind in FileKind:
        if kind in path.stem.lower():
            return kind
    keys = set(raw(path))
    fitting = {kind: len(keys & _fields(kind)) for kind in FileKind}
    best = max(fitting, key=lambda kind: fitting[kind])
    if not fitting[best] or list(fitting.values()).count(fitting[best]) > 1:
        raise OperatorConfigError(
            f"{path} could be any kind of file", reason="unknown_kind", fix=f"add --kind {'|'.join(FileKind)}"
        )
    return best


def raw(path: Path) -> dict[str, Any]:
    """The keys of a TOML file; none where it is not TOML, which `load` explains."""
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError):  # tomllib.TOMLDecodeError is a ValueError
        return {}


def origins(kind: FileKind, path: Path) -> Iterator[Setting]:
    """Every value in force, and where it came from."""
    values = msgspec.to_builtins(load(kind, path))
    file, environment = raw(path), environment_of(kind)
    below = _below(kind, merged(file, environment), path)
    layers: tuple[tuple[Origin, dict[str, Any]], ...] = (
        ("environment", environment),
        ("file", file),
        ("profile", below),
    )
    for keys in _leaves(struct_of(kind), values):
        origin: Origin = next((name for name, layer in layers if _has(layer, keys)), "default")
        yield Setting(".".join(keys), _at(values, keys), origin)


def _below(kind: FileKind, data: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the device profile says that a file of that kind names."""
    if kind is not FileKind.EDGE:
        return {}
    from outrider_edge.profile import settings_below

    return settings_below(data, path.resolve().parent)


def _leaves(kind: type[msgspec.Struct], values: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Scalars by their path, then what repeats by its top key."""
    scalars = [keys for keys, _ in settings_of(kind)]
    yield from scalars
    tops = {keys[0] for keys in scalars}
    yield from ((key,) for key in values if key not in tops)


def _fields(kind: FileKind) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct_of(kind))}


def _has(table: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def _at(table: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        table = table[key]
    return table
