"""The repository in the cloud's hands: takes what publishers have signed, signs snapshot and timestamp, again before they expire.

The keys here can say which of the signed files are the newest. They can make no release and no plan. Blocks; several workers may
share the folder.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from outrider_trust.repository import KINDS, ONLINE, Repository
from outrider_trust.sources import checked_path
from outrider_wire.errors import OperatorConfigError, TrustRefusedError

log = logging.getLogger(__name__)

FILES = 64
"""Most files of metadata that are taken together."""
FILE_BYTES = 4_000_000


class OnlineRoles:
    """One repository.

    Args:
        repository: made before.
        signers: of ``snapshot`` and ``timestamp``.
        find_blob: the file of a digest that a publisher has uploaded; None: it was not.
        days: how long a snapshot and a timestamp are good for.
        clock: UTC in seconds.
    """

    def __init__(
        self,
        *,
        repository: Repository,
        signers: Mapping[str, Signer],
        find_blob: Callable[[str], Path | None],
        days: Mapping[str, float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._signers = {role: [signers[role]] for role in ONLINE}
        self._find_blob = find_blob
        self._days = days
        self._clock = clock

    @property
    def timestamp(self) -> int:
        """Version of the newest timestamp."""
        return self._repository.version("timestamp")

    @property
    def root(self) -> bytes:
        """The newest root."""
        return self._repository.path("root", self._repository.version("root")).read_bytes()

    def check(self) -> None:
        """Whether the keys here are those that the root names.

        Raises:
            OperatorConfigError: ``role_missing``: there is no repository; ``online_key``: the root names another key.
        """
        root = self._repository.read("root").signed
        for role, (signer,) in self._signers.items():
            if signer.public_key.keyid not in root.roles[role].keyids:
                raise OperatorConfigError(
                    f"the {role} key is not one that the root names for {role}",
                    reason="online_key",
                    fix=f"set trust.{role}_key to the key that is, or have this one signed in: outrider ota keys rotate",
                )

    def take(self, files: Mapping[str, bytes]) -> int:
        """Publishes metadata that is signed as it must be, all of it or none, and what follows from it; the new timestamp's version.

        Args:
            files: role to bytes. What a role names as targets must have been uploaded before.

        Raises:
            TrustRefusedError: ``metadata_invalid``, ``metadata_unsigned``, ``metadata_rolled_back``, ``metadata_expired``,
                ``target_missing``.
        """
        if not 1 <= len(files) <= FILES or any(role in ONLINE for role in files):
            raise TrustRefusedError("publish root, targets and delegated roles alone", reason="metadata_invalid")
        order = sorted(files, key=lambda role: (["root", "targets"].index(role) if role in KINDS else 2, role))
        parsed = {role: _parsed(role, files[role]) for role in order}
        with self._alone():
            self._check_all(parsed)
            for role, metadata in parsed.items():
                self._take_targets(metadata)
                self._repository.publish(role, metadata)
                log.info("trust.published", extra={"role": role, "version": metadata.signed.version})
            return self._sign()

    def tend(self) -> bool:
        """Signs again what has lived half its life, or lacks what was put into the folder; whether it did."""
        with self._alone():
            if not self._due():
                return False
            self._sign()
        return True

    def find(self, path: str) -> Path | None:
        """A file that devices may have: of ``metadata/`` or ``targets/``; None: there is none.

        Raises:
            TrustRefusedError: ``metadata_path``.
        """
        at = self._repository.folder / checked_path(path)
        return at if path.startswith(("metadata/", "targets/")) and at.is_file() else None

    def _sign(self) -> int:
        self._repository.snapshot(self._signers, days=self._days)
        log.info("trust.signed", extra={"timestamp": self.timestamp})
        return self.timestamp

    def _due(self) -> bool:
        repository, now = self._repository, datetime.fromtimestamp(self._clock(), UTC)
        if not (repository.version("timestamp") and repository.version("snapshot")):
            return True
        for role in ONLINE:
            newest = repository.read(role)
            left = newest.signed.expires - now
            if left < timedelta(days=self._days[role] / 2) or repository.lacking(role, newest):
                return True
        listed = repository.read("snapshot").signed.meta
        return any(
            f"{role}.json" not in listed or listed[f"{role}.json"].version != repository.version(role)
            for role in repository.roles()
            if role != "root"
        )

    def _check_all(self, parsed: "Mapping[str, Metadata[Any]]") -> None:
        """Against each other as well as against what is there: a task's new keys come with what they sign."""
        root = parsed["root"].signed if "root" in parsed else self._repository.read("root").signed
        targets = parsed["targets"].signed if "targets" in parsed else None
        for role, metadata in parsed.items():
            delegator = root if role == "targets" else targets if role not in KINDS else None
            self._repository.check(role, metadata, delegator=delegator)
            for target in getattr(metadata.signed, "targets", {}).values():
                self._check_target(target)

    def _check_target(self, target: Any) -> None:
        checked_path(target.path)
        digest = target.hashes.get("sha256", "")
        if self._repository.has_target(target):
            return
        if self._find_blob(digest) is None:
            raise TrustRefusedError(
                f"{target.path} is signed, and its bytes are not here",
                reason="target_missing",
                fix=f"PUT /v1/blobs/{digest} first",
            )

    def _take_targets(self, metadata: "Metadata[Any]") -> None:
        for target in getattr(metadata.signed, "targets", {}).values():
            blob = self._find_blob(target.hashes.get("sha256", ""))
            if blob is not None and blob.stat().st_size <= FILE_BYTES:
                self._repository.put_target(target.path, blob.read_bytes())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._repository.folder / ".lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _parsed(role: str, data: bytes) -> "Metadata[Any]":
    if len(data) > FILE_BYTES:
        raise TrustRefusedError(f"{role} has {len(data)} bytes", reason="metadata_too_large")
    checked_path(f"metadata/1.{role}.json")
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise TrustRefusedError(f"{role} does not parse: {error}", reason="metadata_invalid") from error
    if metadata.signed.type != (role if role in KINDS else "targets"):
        raise TrustRefusedError(f"{role} is of type {metadata.signed.type}", reason="metadata_invalid")
    return metadata
