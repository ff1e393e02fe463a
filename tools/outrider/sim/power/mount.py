"""The disk as a folder: ``python -m outrider.sim.power.mount FOLDER JOURNAL`` serves it over FUSE until it is unmounted.

The journal is written when that happens. The kernel keeps a page cache in front (no ``direct_io``), which is what SQLite's
shared-memory file in WAL mode needs; writes go through to the disk one by one.
"""

import errno
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-untyped]  # it ships no types
import msgspec

from outrider.sim.power.disk import MOOD, MOODS, ROOT, SAID, Disk, Kind, Op, split

_BLOCK = 4096
_BLOCKS = 1 << 16


class Served(mfusepy.Operations):  # type: ignore[misc]  # mfusepy ships no types
    """The operations of FUSE over a `Disk`. One thread."""

    use_ns = True

    def __init__(self) -> None:
        self.journal: list[Op] = []
        self._disk = Disk()
        self._next = ROOT + 1
        self._modes = {ROOT: 0o700}
        """Inode → permissions: what is loaded as code is kept only where nobody else may write."""
        self._mood = 0

    # what changes

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        if path in (SAID, MOOD):
            return 0
        return self._make("create", path, mode)

    def mkdir(self, path: str, mode: int) -> None:
        self._make("mkdir", path, mode)

    def link(self, target: str, source: str) -> None:
        folder, name = split(target)
        self._do(Op("link", self._inode(folder), name, self._inode(source), path=target))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if path == SAID:
            self.journal += [Op("said", data=line) for line in data.splitlines()]
        elif path == MOOD:
            self._mood = MOODS[data.decode().strip()]
        else:
            self._do(Op("write", inode=fh or self._inode(path), at=offset, data=data, path=path))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        if path not in (SAID, MOOD):
            self._do(Op("truncate", inode=fh or self._inode(path), at=length, path=path))

    def unlink(self, path: str) -> None:
        self._remove("unlink", path)

    def rmdir(self, path: str) -> None:
        if self._disk[self._inode(path)].names:
            raise mfusepy.FuseOSError(errno.ENOTEMPTY)
        self._remove("rmdir", path)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        (folder, name), (target, wanted) = split(old), split(new)
        self._inode(old)
        self._do(Op("rename", self._inode(folder), name, at=self._inode(target), data=wanted.encode(), path=new))

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        if path not in (SAID, MOOD):
            self._do(Op("fsync", inode=fh or self._inode(path), path=path))
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._do(Op("fsyncdir", inode=self._inode(path), path=path))
        return 0

    # what does not

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path in (SAID, MOOD):
            return _attributes(stat.S_IFREG | 0o666, 0)
        inode = fh or self._inode(path)
        node = self._disk[inode]
        return _attributes((stat.S_IFDIR if node.is_folder else stat.S_IFREG) | self._modes[inode], len(node.data))

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self._disk[self._inode(path)].names]

    def open(self, path: str, flags: int) -> int:
        return 0 if path in (SAID, MOOD) else self._inode(path)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self._disk[fh or self._inode(path)].data[offset : offset + size])

    def statfs(self, path: str) -> dict[str, int]:
        free = 0 if self._mood == errno.ENOSPC else _BLOCKS // 2
        return {"f_bsize": _BLOCK, "f_frsize": _BLOCK, "f_blocks": _BLOCKS, "f_bfree": free, "f_bavail": free}

    def chmod(self, path: str, mode: int) -> int:
        if path not in (SAID, MOOD):
            self._modes[self._inode(path)] = stat.S_IMODE(mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        return 0

    # inside

    def _inode(self, path: str) -> int:
        if (found := self._disk.find(path)) is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return found

    def _make(self, kind: Kind, path: str, mode: int) -> int:
        folder, name = split(path)
        self._next += 1
        self._do(Op(kind, self._inode(folder), name, self._next, path=path))
        self._modes[self._next] = stat.S_IMODE(mode)
        return self._next

    def _remove(self, kind: Kind, path: str) -> None:
        folder, name = split(path)
        self._inode(path)
        self._do(Op(kind, self._inode(folder), name, path=path))

    def _do(self, op: Op) -> None:
        if self._mood and not (self._mood == errno.ENOSPC and op.kind in ("unlink", "rmdir", "fsync", "fsyncdir")):
            raise mfusepy.FuseOSError(self._mood)
        self._disk.apply(op)
        self.journal.append(op)


def _attributes(mode: int, size: int) -> dict[str, Any]:
    now = time.time_ns()
    owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
    return {"st_mode": mode, "st_nlink": 1, "st_size": size, "st_mtime": now, "st_ctime": now, "st_atime": now, **owner}


def main() -> None:
    """Serves until unmounted."""
    served = Served()
    mfusepy.FUSE(
        served,
        sys.argv[1],
        foreground=True,
        nothreads=True,
        fsname="outrider-power-cut",
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )
    Path(sys.argv[2]).write_bytes(msgspec.msgpack.encode(served.journal))


if __name__ == "__main__":
    main()
