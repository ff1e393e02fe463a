"""How a run tells what it has promised, and how a check reads that. One line a promise; knows no disk."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from outrider.sim.power.disk import SAID

Say = Callable[..., None]
"""Told a word and what it is about: ``say("accepted", id)``. From then on a power cut must not undo it."""


class Broken(Struct, frozen=True):
    """A promise that a cut has broken."""

    what: str
    lost: bool = True
    """False: something is there twice."""


def sayer(folder: Path) -> Say:
    """Writes promises to the disk that keeps the journal; to be used from any thread."""
    said = os.open(folder / SAID.strip("/"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(*words: str) -> None:
        os.write(said, " ".join(words).encode() + b"\n")

    return say


def told(said: Iterable[str], word: str) -> list[list[str]]:
    """What else was said with that word, in order."""
    return [line.split()[1:] for line in said if line.split()[0] == word]
