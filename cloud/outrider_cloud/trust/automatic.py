"""The automatic role of a task in the cloud's hands: what the learning loop made, for the signed canary group and for nobody else.

Its key can make releases and plans that a device takes only where the targets role's canary group has it
(`outrider_trust.client.TrustedMetadata.plan`). Blocks.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from outrider_trust.facts import (
    CANARY_FIELD,
    Canary,
    ReleaseFacts,
    Requires,
    auto_role,
    canary_fault,
    decode_canary,
    plan_path,
    release_facts,
    release_path,
)
from outrider_trust.repository import TASK_DAYS, Repository
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.manifest import Manifest
from outrider_wire.rollout import PlannedRelease, RolloutPlan


class AutomaticRole:
    """One task's.

    Args:
        task: whose learning rounds are released.
        repository: the cloud's.
        signer: the automatic role's key.
        clock: UTC in seconds.
    """

    def __init__(
        self, *, task: str, repository: Repository, signer: Signer, clock: Callable[[], float] = time.time
    ) -> None:
        self._task = task
        self._role = auto_role(task)
        self._repository = repository
        self._signer = signer
        self._clock = clock

    def check(self) -> None:
        """Whether devices would believe it.

        Raises:
            OperatorConfigError: ``online_key``: nobody delegates to the role, or not to this key; ``canary_missing``.
        """
        about = self._delegation()
        if about is None or self._signer.public_key.keyid not in about.keyids or about.threshold > 1:
            raise OperatorConfigError(
                f"the targets role does not delegate to {self._role} with this key alone",
                reason="online_key",
                fix=f"outrider ota init --automatic, or set trust.automatic.{self._task}.key",
            )
        self.canary()

    def canary(self) -> Canary:
        """The only group that its plans may have.

        Raises:
            OperatorConfigError: ``canary_missing``.
        """
        about = self._delegation()
        found = decode_canary(about.unrecognized_fields.get(CANARY_FIELD)) if about else None
        if found is None:
            raise OperatorConfigError(
                f"no canary group is signed for task {self._task}",
                reason="canary_missing",
                fix="see: outrider ota keys add",
            )
        return found

    def release_of(self, manifest: Manifest, *, digest: str, size: int) -> tuple[PlannedRelease, ReleaseFacts]:
        """A release as a plan names it, with what is signed of it, or would be: the counter after the highest, what its parent asks for."""
        known = {name: (facts, length) for name, facts, length in self._releases()}
        if digest in known:
            facts = known[digest][0]
        else:
            parent = known.get(manifest.parent or "")
            facts = ReleaseFacts(
                task=self._task,
                version=manifest.version,
                counter=1 + max((each.counter for each, _ in known.values()), default=0),
                parent=manifest.parent,
                requires=parent[0].requires if parent else Requires(),
            )
        return PlannedRelease(task=self._task, release=digest, size=size, counter=facts.counter), facts

    def sign(self, manifest: bytes, facts: ReleaseFacts, plan: RolloutPlan) -> dict[str, bytes]:
        """The role's next version with this release and plan, for `outrider_cloud.trust.service.Trust.take`.

        Raises:
            RuleRefusalError: ``plan_beyond_canary``: no device would take it; ``proposal_waits``: somebody else is changing the role.
        """
        if fault := canary_fault(plan, self.canary()):
            raise RuleRefusalError(f"no device would take this plan: {fault}", reason="plan_beyond_canary")
        [planned] = plan.releases
        targets = {
            plan_path(self._task, plan.rollout, automatic=True): self._put(plan.rollout, msgspec.json.encode(plan))
        }
        if planned.release not in {digest for digest, _, _ in self._releases()}:
            path = release_path(self._task, planned.release, automatic=True)
            targets[path] = self._repository.put_target(path, manifest, msgspec.to_builtins(facts))
        return self._signed(targets)

    def renewed(self) -> dict[str, bytes]:
        """The role's next version where the present one has lived half its life; nothing where it has not."""
        if not self._repository.version(self._role):
            return {}
        left = self._repository.read(self._role).signed.expires - datetime.fromtimestamp(self._clock(), UTC)
        return self._signed({}) if left < timedelta(days=TASK_DAYS / 2) else {}

    def _signed(self, targets: dict[str, TargetFile]) -> dict[str, bytes]:
        if self._repository.pending(self._role) is not None:
            raise RuleRefusalError(
                f"a version of {self._role} waits for signatures",
                reason="proposal_waits",
                fix=f"outrider ota keys sign {self._role}, or discard it",
            )
        metadata = self._repository.fresh(self._role)
        metadata.signed.targets.update(targets)
        self._repository.sign(self._role, metadata, [self._signer])
        return {self._role: metadata.to_bytes()}

    def _put(self, rollout: str, data: bytes) -> TargetFile:
        return self._repository.put_target(plan_path(self._task, rollout, automatic=True), data)

    def _delegation(self) -> Any:
        delegations = self._repository.read("targets").signed.delegations
        return (delegations.roles or {}).get(self._role) if delegations else None

    def _releases(self) -> Iterator[tuple[str, ReleaseFacts, int]]:
        """Digest, facts and length of every signed release; what the task's own role says comes last, and counts."""
        for automatic, role in ((True, self._role), (False, self._task)):
            if not self._repository.version(role):
                continue
            for path, target in self._repository.read(role).signed.targets.items():
                digest = target.hashes.get("sha256", "")
                if path == release_path(self._task, digest, automatic=automatic):
                    yield digest, release_facts(target.custom, task=self._task), target.length
