"""A bar for whatever takes longer than a moment, on standard error. Knows no work; says nothing where nobody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from outrider.output import Screen

Tell = Callable[[str, float], None]
"""Told what is being done, and which share of it is done, 0 to 1."""


@contextmanager
def bar(screen: Screen) -> Iterator[Tell]:
    """A function to tell of progress; one line a piece of work. Off a terminal it prints each piece of work once."""
    if screen.json or screen.quiet:
        yield lambda _what, _share: None
    elif not sys.stderr.isatty():
        yield _plain()
    else:
        with _rich_bar() as tell:
            yield tell


def _plain() -> Tell:
    said: set[str] = set()

    def tell(what: str, share: float) -> None:
        if what not in said:
            said.add(what)
            print(what, file=sys.stderr, flush=True)

    return tell


@contextmanager
def _rich_bar() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        known: dict[str, Any] = {}

        def tell(what: str, share: float) -> None:
            if what not in known:
                known[what] = shown.add_task(what, total=1.0)
            shown.update(known[what], completed=share)

        yield tell
