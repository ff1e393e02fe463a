"""python-tuf's updater, made to survive power cuts and to remember: every write durable, a floor under every version and the clock.

Closes what was measured of python-tuf 7.0.1: it renames without fsync, takes an unreadable timestamp or snapshot for an absent one,
and believes a clock in the past. Only here are its private methods overridden; the range of versions is pinned for it.
"""

import contextlib
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from outrider_link.files import make_folder, write_durably
from outrider_trust.facts import SIGNED_FIELD
from outrider_trust.floor import FLOOR_FILE, Floor, Mark, check_version, damaged
from outrider_trust.sources import MetadataSource, NotHereError
from outrider_wire.errors import TrustClockError, TrustDamagedError, TrustRefusedError, UnreachableError

CLOCK_SLACK_S = 3600.0
"""By so much this device's clock may be behind the signer's: what has expired is judged by the later of the two."""
LIMITS = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=32,
    root_max_length=256_000,
    timestamp_max_length=16_384,
    snapshot_max_length=512_000,
    targets_max_length=4_000_000,
)

Kept = Literal["timestamp", "snapshot"]


class SourceFetcher(FetcherInterface):
    """A `MetadataSource` as python-tuf's fetcher."""

    def __init__(self, source: MetadataSource) -> None:
        self._source = source

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """One file of metadata, whole."""
        try:
            data = self._source.fetch(url, max_length)
        except NotHereError as error:
            raise DownloadHTTPError(error.what, 404) from error
        except (UnreachableError, OSError) as error:
            raise DownloadError(str(error)) from error
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{url} has more than {max_length} bytes")
        return data

    def _fetch(self, url: str) -> Any:
        raise NotImplementedError("targets are fetched by digest, not by python-tuf")


class DurableUpdater(Updater):
    """One check of the metadata in ``folder``. As python-tuf's, it is used once."""

    def __init__(
        self,
        folder: Path,
        source: MetadataSource,
        *,
        shipped_root: bytes,
        clock: Callable[[], float],
        earliest_s: float,
        config: UpdaterConfig = LIMITS,
        base: str = "metadata/",
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._earliest_s = earliest_s
        self._timestamp_rotated = False
        make_folder(folder / "root_history")
        _clear_temporaries(folder)
        self.floor = _opened(folder, shipped_root)
        super().__init__(str(folder), base, fetcher=SourceFetcher(source), config=config, bootstrap=shipped_root)

    @property
    def root(self) -> Root:
        """The newest root that is believed."""
        return self._trusted_set.root

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that is believed, after a refresh."""
        return self._trusted_set.snapshot

    @property
    def timestamp(self) -> Timestamp:
        """The timestamp that is believed, after a refresh."""
        return self._trusted_set.timestamp

    def refresh(self) -> None:
        """As python-tuf's, and held against the floor once more; all of it is durable when it returns."""
        super().refresh()
        for role in (Timestamp.type, Snapshot.type):
            mark = self._standing(cast(Kept, role))
            if mark is None or mark.version != self._trusted_set[role].version:
                raise damaged(self._folder / FLOOR_FILE, f"it does not have the {role} that was just accepted")

    @property
    def targets(self) -> Targets:
        """The top-level targets that are believed, after a refresh."""
        return self._trusted_set.targets

    def delegated_targets(self, role: str) -> dict[str, TargetFile]:
        """What a role that the top-level targets delegate to lists; nothing where they do not. After a refresh."""
        delegations = self.targets.delegations
        if delegations is None or role not in (delegations.roles or {}):
            return {}
        return self._load_targets(role, Targets.type).targets

    def damage(self, role: Kept) -> bool:
        """Whether what is kept of a role is not what was written; call `load_kept_root` before."""
        try:
            self._load_local_metadata(role)
        except TrustDamagedError:
            return True
        except FileNotFoundError:
            return False
        return False

    def use(self, source: MetadataSource) -> None:
        """Whatever is still lacking comes from there."""
        self._fetcher = SourceFetcher(source)

    def kept_targets(self) -> Targets:
        """The top-level targets that are kept, expired or not: no source is asked.

        Raises:
            TrustRefusedError: ``metadata_missing``: there never were any.
            TrustDamagedError: they are not what was written.
        """
        self.load_kept_root()
        path = self._folder / "targets.json"
        try:
            metadata: Metadata[Targets] = Metadata.from_bytes(path.read_bytes())
            self.root.verify_delegate(Targets.type, metadata.signed_bytes, metadata.signatures)
        except FileNotFoundError as error:
            raise TrustRefusedError(
                "this device has no metadata yet",
                reason="metadata_missing",
                fix="let it reach a source of metadata once",
            ) from error
        except (OSError, RepositoryError) as error:
            raise damaged(path, str(error)) from error
        mark = self._standing("snapshot")
        if mark and metadata.signed.version < mark.listed.get("targets.json", 0):
            raise damaged(path, f"it has version {metadata.signed.version}, and a newer one was seen")
        return metadata.signed

    def load_kept_root(self) -> None:
        """The newest root of those that are kept: no source is asked."""
        for version in range(self.root.version + 1, self.floor.highest.root + 1):
            try:
                self._trusted_set.update_root((self._folder / "root_history" / f"{version}.root.json").read_bytes())
            except (OSError, RepositoryError) as error:
                raise damaged(self._folder / "root_history" / f"{version}.root.json", str(error)) from error
        check_version("the root", self.root.version, self.floor.highest.root)

    def _load_root(self) -> None:
        super()._load_root()
        check_version("the root", self.root.version, self.floor.highest.root)
        self.floor.raise_root(self.root.version)
        self._timestamp_rotated = self.floor.highest.timestamp is not None and self._standing("timestamp") is None
        self._set_reference_time()

    def _set_reference_time(self) -> None:
        mark = self._standing("timestamp")
        lowest = max(self._earliest_s, _signed_s(self.root), mark.signed_s if mark else 0)
        now = self._clock()
        if now < lowest - CLOCK_SLACK_S:
            raise TrustClockError(
                f"this device's clock says {_utc(now):%Y-%m-%d %H:%M}, and {_utc(lowest):%Y-%m-%d %H:%M} UTC has passed for certain",
                reason="clock_behind",
                fix="set the clock (chrony, systemd-timesyncd); until then nothing new is accepted",
            )
        self._trusted_set.reference_time = _utc(max(now, lowest))

    def _standing(self, role: Kept) -> Mark | None:
        """What the floor holds of a role, where the root's present keys would still vouch for it."""
        mark: Mark | None = getattr(self.floor.highest, role)
        keys: Role = self.root.roles[role]
        return mark if mark and mark.stands(keys.keyids, keys.threshold) else None

    def _load_local_metadata(self, rolename: str) -> bytes:
        if rolename not in (Timestamp.type, Snapshot.type):
            return super()._load_local_metadata(rolename)  # the snapshot pins it: what is damaged is fetched again
        role, mark = cast(Kept, rolename), self._standing(cast(Kept, rolename))
        path = self._folder / f"{rolename}.json"
        try:
            data = super()._load_local_metadata(rolename)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and (mark is None or mark.aside):
                raise  # there never was one that the present keys vouch for, or it was put aside
            raise damaged(path, str(error)) from error
        if mark and hashlib.sha256(data).hexdigest() == mark.sha256:
            return data
        found = read_mark(self.root, role, data, path)
        if found is None and mark is None:
            return data  # of keys that the root no longer has: python-tuf sets it aside
        if found is None or (mark and found.version <= mark.version):
            raise damaged(path, f"it is not the {role} of version {mark.version if mark else '?'} that was accepted")
        self.floor.mark(role, found)  # the power was cut between the file and the floor
        return data

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        path = self._folder / f"{quote(rolename, '')}.json"
        if rolename not in (Timestamp.type, Snapshot.type):
            write_durably(path, data)
            return
        role = cast(Kept, rolename)
        found, mark = read_mark(self.root, role, data, path), self._standing(role)
        if found is None:
            raise UnsignedMetadataError(f"{rolename} is not signed with the root's keys")
        if mark:
            if role == "timestamp" or not self._timestamp_rotated:
                check_version(f"the {role}", found.version, mark.version)
            for name, lowest in mark.listed.items():
                check_version(f"{name} in the snapshot", found.listed.get(name, 0), lowest)
        write_durably(path, data)
        self.floor.mark(role, found)

    def _persist_root(self, version: int, data: bytes) -> None:
        path = self._folder / "root_history" / f"{version}.root.json"
        if not _holds(path, data):
            write_durably(path, data)

    def _update_root_symlink(self) -> None:
        """The unversioned root is a file: a link would be gone between its removal and its making."""
        data = (self._folder / "root_history" / f"{self.root.version}.root.json").read_bytes()
        path = self._folder / "root.json"
        if path.is_symlink() or not _holds(path, data):
            write_durably(path, data)


def read_mark(root: Root, role: Kept, data: bytes, path: Path) -> Mark | None:
    """The mark of a file; None: it is not signed with that root's keys.

    Raises:
        TrustDamagedError: ``metadata_damaged``: it does not parse.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if not result.verified or metadata.signed.type != role:
        return None
    listed = {name: file.version for name, file in metadata.signed.meta.items()} if role == "snapshot" else {}
    return Mark(
        version=metadata.signed.version,
        sha256=hashlib.sha256(data).hexdigest(),
        signers=sorted(result.signed),
        signed_s=min(_signed_s(metadata.signed), metadata.signed.expires.timestamp()),
        listed=listed,
    )


def _opened(folder: Path, shipped_root: bytes) -> Floor:
    path = folder / FLOOR_FILE
    if floor := Floor.open(path):
        return floor
    kept = [name for name in (Timestamp.type, Snapshot.type) if (folder / f"{name}.json").exists()]
    if kept:  # the floor is durable before the first of them is written
        raise damaged(path, f"it is gone, and {kept[0]}.json is there")
    return Floor.begin(path, root=Metadata[Root].from_bytes(shipped_root).signed.version)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _clear_temporaries(folder: Path) -> None:
    """What a power cut left of writes that were not finished."""
    for inside in (folder, folder / "root_history"):
        for path in inside.glob(".*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _signed_s(signed: Any) -> float:
    value = signed.unrecognized_fields.get(SIGNED_FIELD)
    return float(value) if isinstance(value, int) and 0 <= value < 2**40 else 0.0


def _utc(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
