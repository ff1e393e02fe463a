"""How a daemon gets its configuration: flags over environment over file. Starts nothing."""

import re
from pathlib import Path
from typing import Any

from outrider.settings_files import FileKind, environment_of
from outrider_wire.errors import OperatorConfigError
from outrider_wire.settings import merged


def file_of(kind: FileKind, named: Path | None, flags: dict[str, Any]) -> Path | None:
    """The file to read: the one that was named, else the usual one in this folder; None where the flags name the task.

    Raises:
        OperatorConfigError: there is nothing to start from.
    """
    usual = Path(f"{kind}.toml")
    if named is not None or "tasks" in flags:
        return named
    if usual.exists():
        return usual
    fix = "name one with --config, or a task with --task"
    raise OperatorConfigError(
        f"there is no {usual} in this folder",
        reason="no_configuration",
        fix=fix + (" and --bundle, or try --demo" if kind is FileKind.EDGE else " and --large"),
    )


def overrides(kind: FileKind, flags: dict[str, Any]) -> dict[str, Any]:
    """What wins over the file: the flags, and below them the environment."""
    return merged(environment_of(kind), flags)


def one_task(task: Path | None, **settings: str) -> dict[str, Any]:
    """The override that serves one task; nothing where no task was named.

    Raises:
        OperatorConfigError: settings of a task without a task.
    """
    given = {name: value for name, value in settings.items() if value}
    if task is not None:
        return {"tasks": [{"file": str(task.absolute()), **given}]}
    if given:
        name = next(iter(given))
        raise OperatorConfigError(
            f"--{name} belongs to a task, and none is named", reason="no_task", fix="add --task FILE"
        )
    return {}


def sources(given: list[str], parts: dict[str, str]) -> dict[str, Any]:
    """The override that has these sources and no others: ``camera:0`` → a source of the name ``camera-1``; nothing without one.

    Raises:
        OperatorConfigError: parts of inputs without a source that they would be parts of.
    """
    if parts and not given:
        raise OperatorConfigError(
            "--part belongs to a source, and none is named", reason="no_source", fix="add --source"
        )
    if not given:
        return {}
    found = []
    for number, text in enumerate(given, 1):
        scheme, _, place = text.partition(":")
        url = f"{scheme}:{Path(place).absolute()}" if scheme in ("dir", "file") and place else text
        name = re.sub("[^a-z0-9]+", "-", scheme.lower()).strip("-") or "source"
        found.append({"name": f"{name[:32]}-{number}", "url": url, "parts": parts})
    return {"sources": found}


def texts(given: list[str]) -> dict[str, str]:
    """``NAME=TEXT`` by name.

    Raises:
        OperatorConfigError: one has no name.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise OperatorConfigError(f"--part {text!r} has no name", reason="usage", fix="write --part NAME=TEXT")
        found[name] = value
    return found


def nested(**flags: Any) -> dict[str, Any]:
    """Overrides of a configuration from flags: ``broker__url="…"`` → ``{"broker": {"url": "…"}}``; those not given are left out."""
    overrides: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value == "":
            continue
        *tables, key = name.split("__")
        table = overrides
        for each in tables:
            table = table.setdefault(each, {})
        table[key] = str(value.absolute()) if isinstance(value, Path) else value
    return overrides
