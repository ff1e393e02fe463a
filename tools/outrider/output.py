"""The one place where a command speaks: tables for people, JSON for machines, errors in one sentence. Decides nothing.

Results go to standard output; what is only said along the way goes to standard error, so that ``| jq`` always works.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from outrider.extras import extra_of, how_to_install
from outrider_wire.errors import OperatorError, OperatorSetupError, OutriderError

TRACEBACK = "OUTRIDER_TRACEBACK"
"""Set to 1, an unexpected error shows where it came from."""
PIPED_WIDTH = 160


class Screen:
    """What one command prints, as its ``--json`` and ``--quiet`` ask."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    def value(self, value: Any) -> None:
        """One JSON document on a line of its own, whatever was asked: for commands whose result is JSON."""
        print(to_json(value), flush=True)

    def result(self, value: Any, text: str = "") -> None:
        """The result: ``value`` as JSON, or ``text``. ``--quiet`` keeps only JSON."""
        if self.json:
            self.value(value)
        elif not self.quiet and text:
            print(text, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
        """A table for people; nothing with ``--json`` (give the same to `result`) or ``--quiet``."""
        if self.json or self.quiet:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.show_header = any(columns)
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)

    def note(self, text: str) -> None:
        """Said along the way, on standard error; nothing with ``--quiet`` or ``--json``."""
        if not self.quiet and not self.json:
            print(text, file=sys.stderr, flush=True)

    def confirmed(self, question: str, *, yes: bool) -> bool:
        """Whether the person agrees. Without a terminal there is nobody to ask, and ``--yes`` is needed.

        Raises:
            OperatorError: neither ``--yes`` nor a terminal.
        """
        if yes:
            return True
        if not sys.stdin.isatty():
            raise OperatorError(f"{question} needs a yes", reason="not_confirmed", fix="add --yes")
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def to_json(value: Any) -> str:
    """Any struct, dataclass or plain value as one line of JSON."""
    import msgspec

    return msgspec.json.encode(value).decode()


def fail(error: Exception, *, json: bool) -> int:
    """Says what went wrong, in one sentence on standard error (with ``json``, as a document on standard output too).

    Returns:
        The exit code. Never shows a traceback, unless the error was unexpected and `TRACEBACK` asks for it.
    """
    known = error if isinstance(error, OutriderError) else _missing_library(error)
    if known is None and os.environ.get(TRACEBACK) == "1":
        traceback.print_exception(error)
    sentence = _one_line(known or f"unexpected {type(error).__name__}: {error}; set {TRACEBACK}=1 to see where")
    print(f"error: {sentence}", file=sys.stderr)
    if json:
        print(to_json({"error": document(known) if known else {"reason": "unexpected", "what": _one_line(error)}}))
    return known.exit_code if known else 1


def document(error: OutriderError) -> dict[str, str]:
    """An error as JSON tools read it."""
    return {"reason": error.reason, "what": error.what, "fix": error.fix, "part": getattr(error, "part", "")}


def _missing_library(error: Exception) -> OutriderError | None:
    """A library that an optional install brings: the operator's move, not a defect."""
    if not isinstance(error, ModuleNotFoundError) or not (extra := extra_of(error.name or "")):
        return None
    return OperatorSetupError(
        f"this command needs {error.name}, which is not installed", reason="missing_extra", fix=how_to_install(extra)
    )


def _one_line(said: object) -> str:
    return " ".join(str(said).split())
