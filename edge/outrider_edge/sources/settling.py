"""When a file that appears in a folder is whole. Pure: listings in, names out; who looks, and how often, is not its business."""

from collections.abc import Mapping
from typing import NamedTuple

_UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart", "~")


class Mark(NamedTuple):
    """What tells one state of a file from another."""

    modified_ns: int
    size: int
    inode: int


class Settling:
    """Gives each file once it has looked the same twice, and again when it has changed since."""

    def __init__(self) -> None:
        self._before: Mapping[str, Mark] = {}
        self._given: dict[str, Mark] = {}

    def whole(self, listing: Mapping[str, Mark]) -> list[str]:
        """The names that are whole now and were not given before, the oldest first.

        A hidden file, an empty one and one whose name says that it is unfinished are never whole.
        """
        found = [
            name
            for name, mark in listing.items()
            if mark.size and not is_unfinished(name) and self._before.get(name) == mark != self._given.get(name)
        ]
        self._given = {name: mark for name, mark in self._given.items() if name in listing}
        self._given |= {name: listing[name] for name in found}
        self._before = dict(listing)
        return sorted(found, key=lambda name: (listing[name], name))

    def again(self, name: str) -> None:
        """Gives that file once more."""
        self._given.pop(name, None)


def is_unfinished(name: str) -> bool:
    """Whether a name says that somebody still writes: hidden, as of rsync, or with the ending of a beginning."""
    return name.startswith(".") or name.endswith(_UNFINISHED)
