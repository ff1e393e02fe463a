"""A disk in memory that keeps a journal of all that happens to it, and what of it a power cut at any moment would leave.

Knows inodes, names and syncs, not FUSE. The ideas are those of CrashMonkey (OSDI '18) and ALICE (OSDI '14): record a run
once, then ask of every prefix which states a disk may be in.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

ROOT = 1
SAID = "/.said"
"""A line appended to this file is a promise: it stands in the journal where it was made, and on no disk."""
MOOD = "/.mood"
"""What is written to this file is how the disk takes changes from now on: one of `MOODS`."""
MOODS = {"ok": 0, "full": errno.ENOSPC, "readonly": errno.EROFS, "broken": errno.EIO}

Kind = Literal["create", "mkdir", "link", "write", "truncate", "unlink", "rmdir", "rename", "fsync", "fsyncdir", "said"]
Model = Literal["strict", "journalled", "lucky"]
"""What survives of what was not synced. ``strict``: nothing. ``journalled``: every name, no byte (a file system that
journals its metadata). ``lucky``: everything, as after a kill."""
MODELS: Sequence[Model] = ("strict", "journalled", "lucky")
Image = dict[str, bytes | None]
"""Path → bytes, or None of a folder."""


class Op(Struct, frozen=True, array_like=True):
    """One change, in the order in which the disk saw them."""

    kind: Kind
    folder: int = 0
    """Inode of the folder that holds the name (of a rename: from which it is moved)."""
    name: str = ""
    inode: int = 0
    at: int = 0
    """Offset of a write; size of a truncation; folder that a rename moves to."""
    data: bytes = b""
    """Of a write, or of a promise; the new name of a rename."""
    path: str = ""
    """For people."""


@dataclass
class Inode:
    """A file's bytes, or a folder's names; what is synced of either."""

    is_folder: bool
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    kept_data: bytes = b""
    kept_names: dict[str, int] = field(default_factory=dict)


class Disk:
    """What is on the disk now, and what of it is safe. `apply` is all that changes it.

    Args:
        model: what is safe without a sync.
    """

    def __init__(self, *, model: Model = "strict") -> None:
        self._model = model
        self._inodes: dict[int, Inode] = {ROOT: Inode(is_folder=True)}
        self._moved: dict[tuple[int, str, int], tuple[int, str]] = {}
        """(folder, name, inode) → whence it was moved, while neither folder is synced: a rename is one change."""

    def __getitem__(self, inode: int) -> Inode:
        return self._inodes[inode]

    def find(self, path: str) -> int | None:
        """The inode at a path; None: there is none."""
        found: int | None = ROOT
        for name in _names(path):
            node = self._inodes[found] if found is not None else None
            found = node.names.get(name) if node is not None and node.is_folder else None
        return found

    def apply(self, op: Op) -> None:
        """Makes one change."""
        match op.kind:
            case "create" | "mkdir":
                self._inodes[op.inode] = Inode(is_folder=op.kind == "mkdir")
                self._inodes[op.folder].names[op.name] = op.inode
            case "link":
                self._inodes[op.folder].names[op.name] = op.inode
            case "write":
                _write(self._inodes[op.inode].data, op.at, op.data)
            case "truncate":
                _truncate(self._inodes[op.inode].data, op.at)
            case "unlink" | "rmdir":
                del self._inodes[op.folder].names[op.name]
            case "rename":
                self._rename(op)
            case "fsync":
                node = self._inodes[op.inode]
                node.kept_data = bytes(node.data)
            case "fsyncdir":
                self._sync_folder(op.inode)
            case "said":
                pass

    def durable(self) -> Image:
        """What a power cut now would leave."""
        if self._model == "lucky":
            return dict(self._walk(ROOT, "", lambda node: node.names, lambda node: bytes(node.data)))
        if self._model == "journalled":
            return dict(self._walk(ROOT, "", lambda node: node.names, lambda node: node.kept_data))
        return dict(self._walk(ROOT, "", lambda node: node.kept_names, lambda node: node.kept_data))

    def _walk(self, inode: int, path: str, names: "_Names", data: "_Data") -> Iterator[tuple[str, bytes | None]]:
        for name, child in names(self._inodes[inode]).items():
            node = self._inodes[child]
            yield f"{path}/{name}", None if node.is_folder else data(node)
            if node.is_folder:
                yield from self._walk(child, f"{path}/{name}", names, data)

    def _rename(self, op: Op) -> None:
        inode, target = self._inodes[op.folder].names.pop(op.name), op.data.decode()
        self._inodes[op.at].names[target] = inode
        if op.folder != op.at:
            self._moved[(op.at, target, inode)] = (op.folder, op.name)

    def _sync_folder(self, inode: int) -> None:
        node = self._inodes[inode]
        node.kept_names = dict(node.names)
        for (folder, name, moved), (before, old) in list(self._moved.items()):
            if inode == folder and node.names.get(name) == moved:
                source = self._inodes[before].kept_names
                if source.get(old) == moved:
                    del source[old]
                del self._moved[(folder, name, moved)]


_Names = Callable[[Inode], dict[str, int]]
_Data = Callable[[Inode], bytes]


class Cut(Struct, frozen=True):
    """The disk after a power cut, and what had been promised until then."""

    after: int
    """Operations that were carried out."""
    model: Model
    image: Image
    said: list[str]


def cuts(journal: Sequence[Op], model: Model, *, deaf: int | None = None) -> Iterator[Cut]:
    """Every cut of a run: before its first operation, after each one. Cuts that differ in nothing come once.

    Args:
        deaf: index of a sync that the disk acknowledges and forgets: the negative control.
    """
    disk, said, before = Disk(model=model), list[str](), None
    for number in range(len(journal) + 1):
        if number:
            op = journal[number - 1]
            if op.kind == "said":
                said.append(op.data.decode())
            if number - 1 != deaf:
                disk.apply(op)
        image = disk.durable()
        if (image, len(said)) != before:
            before = (image, len(said))
            yield Cut(after=number, model=model, image=image, said=list(said))


def split(path: str) -> tuple[str, str]:
    """Folder and name of a path."""
    folder, _, name = path.rpartition("/")
    return folder or "/", name


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _write(data: bytearray, at: int, new: bytes) -> None:
    if len(data) < at:
        data.extend(bytes(at - len(data)))
    data[at : at + len(new)] = new


def _truncate(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))
