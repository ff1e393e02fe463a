"""The highest versions that a device has seen, in a file of their own: what it refuses to forget. Knows files, not signatures.

python-tuf finds rollbacks by the files it keeps, and takes one that it cannot read for one that never was. So this is kept beside
them, and a file that should be there and is not what was written is damage, which refuses.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from outrider_link.files import write_durably
from outrider_wire.decodable import decodable
from outrider_wire.errors import TrustDamagedError, TrustRefusedError
from outrider_wire.names import Digest, Name

FLOOR_FILE = "highest"
"""Without an ending: every role's file has ``.json``."""

Version = Annotated[int, Meta(ge=1)]


class Mark(Struct, kw_only=True, frozen=True):
    """The newest accepted file of one role."""

    version: Version
    sha256: Digest
    signers: list[str]
    """Key ids whose signatures on it counted: once the root no longer has enough of them, it stands for nothing (TUF 5.3.11)."""
    signed_s: float = 0
    listed: dict[str, Version] = {}
    """Of the snapshot: the version of every file that it lists."""
    aside: bool = False
    """Its file was damaged and has been put aside: the versions hold all the same."""

    def stands(self, keyids: Collection[str], threshold: int) -> bool:
        """Whether it would still be believed under these keys."""
        return len(set(self.signers) & set(keyids)) >= threshold


class Highest(Struct, kw_only=True):
    """All that is kept."""

    root: Version
    timestamp: Mark | None = None
    snapshot: Mark | None = None
    counters: dict[Name, int] = {}
    """The highest release counter that has been committed, by task."""
    schema: Literal[1] = 1


class Floor:
    """The file, read once and replaced whole, durably, at every change."""

    def __init__(self, path: Path, highest: Highest) -> None:
        self._path = path
        self.highest = highest

    @classmethod
    def open(cls, path: Path) -> "Floor | None":
        """What is kept; None: nothing ever was.

        Raises:
            TrustDamagedError: ``floor_damaged``.
        """
        try:
            return cls(path, msgspec.json.decode(path.read_bytes(), type=decodable(Highest)))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise damaged(path, str(error)) from error

    @classmethod
    def begin(cls, path: Path, *, root: int) -> "Floor":
        """A first one, durable before any metadata is."""
        floor = cls(path, Highest(root=root))
        floor.save()
        return floor

    def save(self) -> None:
        """Replaces the file; durable when it returns."""
        write_durably(self._path, msgspec.json.format(msgspec.json.encode(self.highest), indent=1))

    def mark(self, role: Literal["timestamp", "snapshot"], mark: Mark) -> None:
        """Keeps what was accepted."""
        setattr(self.highest, role, mark)
        self.save()

    def set_aside(self, role: Literal["timestamp", "snapshot"]) -> None:
        """Keeps a role's versions, and expects no file."""
        if (mark := getattr(self.highest, role)) is not None:
            self.mark(role, msgspec.structs.replace(mark, aside=True))

    def raise_root(self, version: int) -> None:
        """Keeps the root's version, which never falls."""
        if version > self.highest.root:
            self.highest.root = version
            self.save()

    def raise_counter(self, task: str, counter: int) -> None:
        """Keeps a task's release counter, when it is higher."""
        if counter > self.highest.counters.get(task, 0):
            self.highest.counters[task] = counter
            self.save()


def check_version(what: str, version: int, lowest: int) -> None:
    """Refuses what is older than what was seen.

    Raises:
        TrustRefusedError: ``metadata_rolled_back``.
    """
    if version < lowest:
        raise TrustRefusedError(
            f"{what} has version {version}, and {lowest} was seen already",
            reason="metadata_rolled_back",
            fix="fetch from a source that has the newest metadata; if the cloud's was restored from a backup, sign newer versions",
        )


def damaged(path: Path, what: str) -> TrustDamagedError:
    """One way to say it, with the way out."""
    return TrustDamagedError(
        f"{path} is not what this device wrote: {what}",
        reason="metadata_damaged",
        fix="nothing new is accepted until it is mended: `outrider ota mend` on the device puts damaged files aside and keeps the "
        "versions that were seen, or says why it cannot",
    )
