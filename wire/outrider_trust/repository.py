"""A repository of The Update Framework in a folder: made, changed, signed, published. Used by people's tools and by the cloud.

::

    metadata/    what devices fetch: 1.root.json …, 3.targets.json, 7.snapshot.json, timestamp.json
    targets/     releases' manifests and plans, under their digests
    proposed/    the next version of a role, until enough keys have signed it: it is carried from signer to signer

A version of a file never changes once it is in ``metadata/``; a role is changed by proposing its next version.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from outrider_link.files import make_folder, write_durably
from outrider_trust.facts import SIGNED_FIELD
from outrider_trust.keys import add_signature
from outrider_wire.errors import OperatorConfigError, TrustRefusedError

EXPIRY_DAYS: Mapping[str, float] = {"root": 365, "targets": 90, "snapshot": 14, "timestamp": 7}
TASK_DAYS = 30
"""Of a delegated role."""
ONLINE = ("snapshot", "timestamp")
KINDS: Mapping[str, type[Any]] = {"root": Root, "targets": Targets, "snapshot": Snapshot, "timestamp": Timestamp}


class Repository:
    """The files. ``clock`` gives UTC in seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock

    @property
    def metadata(self) -> Path:
        """What devices fetch."""
        return self.folder / "metadata"

    @property
    def proposed(self) -> Path:
        """What waits for signatures."""
        return self.folder / "proposed"

    def make(self) -> None:
        """Makes the folders.

        Raises:
            OperatorConfigError: ``repository_exists``.
        """
        if any(self.metadata.glob("*.json")):
            raise OperatorConfigError(
                f"there is a repository in {self.folder} already",
                reason="repository_exists",
                fix="choose another folder",
            )
        for path in (self.metadata, self.folder / "targets", self.proposed):
            make_folder(path)

    def version(self, role: str) -> int:
        """The newest published version of a role; 0: there is none."""
        if role == "timestamp":
            return int(self.read(role).signed.version) if (self.metadata / "timestamp.json").exists() else 0
        found = (path.name.partition(".")[0] for path in self.metadata.glob(f"*.{role}.json"))
        return max((int(name) for name in found if name.isdigit()), default=0)

    def path(self, role: str, version: int) -> Path:
        """Where a published version is."""
        return self.metadata / ("timestamp.json" if role == "timestamp" else f"{version}.{role}.json")

    def read(self, role: str, version: int | None = None) -> "Metadata[Any]":
        """A published version, the newest if none is named.

        Raises:
            OperatorConfigError: ``role_missing``, ``metadata_damaged``.
        """
        at = self.path(role, (0 if role == "timestamp" else self.version(role)) if version is None else version)
        return _parsed(at, role)

    def pending(self, role: str) -> "Metadata[Any] | None":
        """The version that waits for signatures; None: none does."""
        path = self.proposed / f"{role}.json"
        return _parsed(path, role) if path.exists() else None

    def roles(self) -> list[str]:
        """Every role that has a published version, delegated ones last."""
        names = {path.name.split(".", 1)[1].removesuffix(".json") for path in self.metadata.glob("*.*.json")}
        return [*(name for name in ("root", "targets") if name in names), *sorted(names - KINDS.keys())]

    def fresh(self, role: str, *, days: float | None = None) -> "Metadata[Any]":
        """The next version of a role, unsigned, with a new expiry; of what waits for signatures, that one, to be changed further."""
        if waiting := self.pending(role):
            waiting.signatures.clear()
            metadata = waiting
        elif self.version(role):
            metadata = self.read(role)
            metadata.signed.version += 1
            metadata.signatures.clear()
        else:
            metadata = Metadata(_first(role))
        now = int(self._clock())
        life = days if days is not None else EXPIRY_DAYS.get(role, TASK_DAYS)
        metadata.signed.expires = datetime.fromtimestamp(now, UTC) + timedelta(seconds=round(life * 86400))
        metadata.signed.unrecognized_fields[SIGNED_FIELD] = now
        return metadata

    def propose(self, role: str, metadata: "Metadata[Any]") -> Path:
        """Puts a version where signers find it."""
        make_folder(self.proposed)
        path = self.proposed / f"{role}.json"
        write_durably(path, metadata.to_bytes())
        return path

    def sign(self, role: str, metadata: "Metadata[Any]", signers: Iterable[Signer]) -> None:
        """Adds signatures to what is in hand; a key that signs twice counts once."""
        for signer in signers:
            add_signature(metadata, signer)

    def lacking(self, role: str, metadata: "Metadata[Any]", *, delegator: Any = None) -> int:
        """How many signatures it still needs, of the role's present keys and, for a root, of the next ones as well."""
        lacking = 0
        for each in [delegator] if delegator else self._delegators(role, metadata):
            try:
                result = each.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            except ValueError as error:
                raise TrustRefusedError(
                    f"nobody delegates to {role}",
                    reason="metadata_unsigned",
                    fix="delegate to it in the targets role first",
                ) from error
            lacking = max(lacking, result.threshold - len(result.signed))
        return lacking

    def check(self, role: str, metadata: "Metadata[Any]", *, delegator: Any = None) -> None:
        """Whether a version may be published now.

        Args:
            role: whose it is.
            metadata: the version.
            delegator: who vouches for it, where that is about to change too; None: who does now.

        Raises:
            TrustRefusedError: ``metadata_unsigned``, ``metadata_rolled_back`` (another one was published meanwhile),
                ``metadata_expired``.
        """
        if lacking := self.lacking(role, metadata, delegator=delegator):
            raise TrustRefusedError(
                f"{role} lacks {lacking} signature(s)", reason="metadata_unsigned", fix="outrider ota keys sign"
            )
        published, version = self.version(role), metadata.signed.version
        if version != published + 1:
            raise TrustRefusedError(
                f"{role} has version {published}, and this is {version}",
                reason="metadata_rolled_back",
                fix="make the change again on the newest version",
            )
        if metadata.signed.is_expired(datetime.fromtimestamp(self._clock(), UTC)):
            raise TrustRefusedError(f"this {role} has expired", reason="metadata_expired", fix="make and sign it again")

    def publish(self, role: str, metadata: "Metadata[Any]") -> Path:
        """Moves a version with enough signatures to where devices fetch it; durable when it returns. Errors as `check`."""
        self.check(role, metadata)
        path = self.path(role, metadata.signed.version)
        write_durably(path, metadata.to_bytes())
        (self.proposed / f"{role}.json").unlink(missing_ok=True)
        return path

    def has_target(self, target: TargetFile) -> bool:
        """Whether its bytes are here."""
        return all((self.folder / "targets" / name).is_file() for name in target.get_prefixed_paths())

    def put_target(self, path: str, data: bytes, custom: Mapping[str, Any] | None = None) -> TargetFile:
        """Writes a target's bytes, and makes its entry, which a role must then sign."""
        target = TargetFile.from_data(path, data, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = dict(custom)
        for name in target.get_prefixed_paths():
            at = self.folder / "targets" / name
            make_folder(at.parent)
            if not at.exists():
                write_durably(at, data)
        return target

    def snapshot(self, signers: Mapping[str, Iterable[Signer]], *, days: Mapping[str, float] = EXPIRY_DAYS) -> None:
        """Makes, signs and publishes a snapshot of what is there, if anything changed, and a timestamp of it.

        Args:
            signers: of ``snapshot`` and of ``timestamp``.
            days: how long each lives.
        """
        listed = {f"{role}.json": self._file(role) for role in self.roles() if role != "root"}
        before = self.read("snapshot") if self.version("snapshot") else None
        now = datetime.fromtimestamp(self._clock(), UTC)
        half = now + timedelta(days=days["snapshot"] / 2)
        if (
            before is None
            or before.signed.meta != listed
            or before.signed.expires < half
            or self.lacking("snapshot", before)
        ):
            metadata = self.fresh("snapshot", days=days["snapshot"])
            metadata.signed.meta = listed
            self.sign("snapshot", metadata, signers["snapshot"])
            self.publish("snapshot", metadata)
        metadata = self.fresh("timestamp", days=days["timestamp"])
        metadata.signed.snapshot_meta = self._file("snapshot")
        self.sign("timestamp", metadata, signers["timestamp"])
        self.publish("timestamp", metadata)

    def _file(self, role: str) -> MetaFile:
        version = self.version(role)
        data = self.path(role, version).read_bytes()
        return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})

    def _delegators(self, role: str, metadata: "Metadata[Any]") -> list[Any]:
        if role == "root":
            before = [self.read("root").signed] if self.version("root") else []
            return [*before, metadata.signed]
        if role in KINDS:
            return [self.read("root").signed]
        return [self.read("targets").signed]


def delegate(
    targets: Targets, role: str, paths: list[str], keys: Iterable[Key], *, threshold: int = 1
) -> DelegatedRole:
    """Makes, or makes anew, a delegation; its keys replace those that it had."""
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    roles = targets.delegations.roles
    assert roles is not None  # noqa: S101 - succinct ones are never made here
    if role in roles:
        for keyid in list(roles[role].keyids):
            targets.revoke_key(keyid, role)
    made = DelegatedRole(role, [], threshold, terminating=True, paths=paths)
    if role in roles:
        made.unrecognized_fields.update(roles[role].unrecognized_fields)
    roles[role] = made
    for key in keys:
        targets.add_key(key, role)
    return made


def _first(role: str) -> Any:
    if role == "root":
        return Root(consistent_snapshot=True)
    return KINDS.get(role, Targets)()


def _parsed(path: Path, role: str) -> "Metadata[Any]":
    try:
        return Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise OperatorConfigError(
            f"there is no {role} in {path.parent}",
            reason="role_missing",
            fix="outrider ota init, or name another --repository",
        ) from error
    except (OSError, RepositoryError) as error:
        raise OperatorConfigError(f"{path} cannot be used: {error}", reason="metadata_damaged") from error
