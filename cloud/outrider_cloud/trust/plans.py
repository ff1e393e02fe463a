"""What is signed of releases and plans, as a device would believe it: read by the same client, from the same files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from outrider_trust.client import TrustedMetadata
from outrider_trust.facts import SignedPlan, SignedRelease, auto_role
from outrider_trust.repository import KINDS, Repository
from outrider_trust.sources import DirectorySource
from outrider_wire.errors import OperatorConfigError


class PlanName(NamedTuple):
    """Where a plan is."""

    task: str
    rollout: str
    automatic: bool


class SignedPlans:
    """Reads back what was published. Blocks; one thread at a time.

    Args:
        repository: what is read.
        folder: where the client keeps what it has believed; it is made.
        clock: UTC in seconds.
    """

    def __init__(self, *, repository: Repository, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self._source = DirectorySource(repository.folder)
        first = repository.path("root", 1)
        try:
            shipped = first.read_bytes()
        except OSError as error:
            raise OperatorConfigError(
                f"there is no {first}", reason="role_missing", fix="make a repository: outrider ota init"
            ) from error
        self._client = TrustedMetadata(folder, shipped_root=shipped, clock=clock)

    def plan(self, task: str, rollout: str) -> SignedPlan | None:
        """A plan with its releases; None: no such plan is signed.

        Raises:
            TrustError: as `TrustedMetadata.plan`: no device would accept it either.
        """
        self._client.refresh(self._source)
        return self._client.plan(task, rollout, self._source)

    def release(self, task: str, digest: str) -> SignedRelease | None:
        """What is signed of a release; None: nothing. Errors as `plan`."""
        self._client.refresh(self._source)
        return self._client.release(task, digest, self._source)

    def digests(self) -> frozenset[str]:
        """SHA-256 of everything that a delegated role lists."""
        roles = (role for role in self._repository.roles() if role not in KINDS)
        listed = (target for role in roles for target in self._repository.read(role).signed.targets.values())
        return frozenset(target.hashes.get("sha256", "") for target in listed)

    def names(self) -> list[PlanName]:
        """Every plan that a role lists, whether or not a device would accept it."""
        found: list[PlanName] = []
        for role in self._repository.roles():
            if role in KINDS:
                continue
            for path in self._repository.read(role).signed.targets:
                task, *middle, name = path.split("/")
                if middle in (["plans"], ["auto", "plans"]):
                    automatic = role == auto_role(task)
                    found.append(PlanName(task, name.removesuffix(".json"), automatic))
        return sorted(found)
