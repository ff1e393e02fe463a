"""Which options each way of certifying reads: a table, so that an option that would change nothing is refused. Reads no file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from outrider_wire.errors import OperatorConfigError

ModeName = Literal["plan", "rows", "bundle", "audits"]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way of certifying."""

    what: str
    how: str
    """What a person names to have it."""
    reads: frozenset[str]
    """Names of the command's parameters."""


_SAID = frozenset({"json", "quiet"})
_ASKED = frozenset({"risk", "delta"})
_SHOWN = frozenset({"source", "explain", "plot"})
_WRITTEN = frozenset({"out", "yes", "config", "task"})

MODES: Mapping[ModeName, Mode] = {
    "plan": Mode(
        what="a plan", how="use --plan", reads=_SAID | _ASKED | {"plan", "n", "accuracy", "groups_of", "seed"}
    ),
    "rows": Mode(
        what="a table of rows",
        how="name a CSV file",
        reads=_SAID | _ASKED | _SHOWN | {"label_source", "group", "score_col", "correct_col", "min_gap", "seed"},
    ),
    "bundle": Mode(
        what="a bundle's certificate on --data",
        how="name a bundle with --data",
        reads=_SAID | _ASKED | _SHOWN | _WRITTEN | {"data", "label_source", "task_file", "min_gap", "seed"},
    ),
    "audits": Mode(
        what="a certificate out of audits",
        how="add --from-audits",
        reads=_SAID | _ASKED | _SHOWN | _WRITTEN | {"audits", "teacher", "threshold"},
    ),
}

_INSTEAD: Mapping[tuple[ModeName, str], str] = {
    ("bundle", "group"): 'write the key "group" into the rows of --data',
    ("audits", "label_source"): "leave it out: audits carry the large model's labels",
    ("plan", "source"): "leave it out, or leave --plan out",
}
"""The way out where it is another than leaving the option out."""


def mode_of(*, plan: bool, audits: bool, folder: bool) -> ModeName:
    """What these flags and this kind of source ask for."""
    if plan:
        return "plan"
    if audits:
        return "audits"
    return "bundle" if folder else "rows"


def check_read(name: ModeName, given: Collection[str], spelt: Mapping[str, str]) -> None:
    """Refuses what was typed and would change nothing.

    Args:
        name: of the mode.
        given: the parameters that were typed.
        spelt: parameter → how a person writes it.

    Raises:
        OperatorConfigError: the mode does not read one of them.
    """
    mode = MODES[name]
    unread = [parameter for parameter in given if parameter not in mode.reads]
    if not unread:
        return
    first = unread[0]
    readers = [other.how for other in MODES.values() if first in other.reads]
    otherwise = f", or {' or '.join(readers)}" if readers else ""
    raise OperatorConfigError(
        f"{mode.what} does not read {', '.join(spelt[each] for each in unread)}",
        reason="unread_option",
        fix=_INSTEAD.get((name, first), f"leave it out{otherwise}"),
    )


def check_together(given: Collection[str], *, config: bool, folder: bool) -> None:
    """Refuses what a bundle's certificate on rows would not read beside the other options.

    Args:
        given: the parameters that were typed.
        config: cloud.toml is named.
        folder: the rows are a folder of pictures.

    Raises:
        OperatorConfigError: with the way out.
    """
    if "task" in given and not config:
        what, fix = "--task names a task in cloud.toml, and there is none", "add --config, or use --task-file"
    elif "task_file" in given and config:
        what, fix = "--task-file is not read where cloud.toml has the task", "leave it out, or leave --config out"
    elif "min_gap" in given and folder:
        what, fix = "pictures of a folder have no times, so that --min-gap is not read", "describe them in JSON lines"
    else:
        return
    raise OperatorConfigError(what, reason="unread_option", fix=fix)
