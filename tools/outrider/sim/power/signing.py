"""A site that signs releases, made in a folder in a moment: what `outrider ota` makes with people and ceremonies, for runs of our own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from outrider_trust.envelope import ORDER_TYPE, seal
from outrider_trust.facts import CONTROL, CONTROL_PATH, ReleaseFacts, plan_path, release_path, task_paths
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, manifest_digest
from outrider_wire.rollout import DeviceOrder, PlannedRelease, RolloutPlan

if TYPE_CHECKING:
    from securesystemslib.signer import Signer  # type: ignore[attr-defined]
    from tuf.api.metadata import Metadata


class SigningSite:
    """Keys in memory, a repository in ``folder``.

    Args:
        tasks: each with a role of its own.
    """

    def __init__(self, folder: Path, tasks: Sequence[str]) -> None:
        from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

        from outrider_trust.repository import Repository, delegate

        self._repository = Repository(folder)
        self._repository.make()
        names = ("root", "targets", "snapshot", "timestamp", CONTROL, *tasks)
        self._keys: dict[str, Signer] = {name: CryptoSigner.generate_ed25519() for name in names}
        root = self._repository.fresh("root")
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.signed.add_key(self._keys[role].public_key, role)
        self._publish("root", root)
        targets = self._repository.fresh("targets")
        for task in tasks:
            delegate(targets.signed, task, task_paths(task), [self._keys[task].public_key])
        delegate(targets.signed, CONTROL, [CONTROL_PATH], [self._keys[CONTROL].public_key])
        self._publish("targets", targets)
        for task in tasks:
            self._publish(task, self._repository.fresh(task))

    def release(self, bundle: Path, counter: int) -> PlannedRelease:
        """Signs a bundle."""
        data = (bundle / MANIFEST_FILE).read_bytes()
        manifest, digest = decode_manifest(data), manifest_digest(data)
        facts = ReleaseFacts(task=manifest.task, version=manifest.version, counter=counter)
        path = release_path(manifest.task, digest)
        self._target(manifest.task, path, data, msgspec.to_builtins(facts))
        return PlannedRelease(task=manifest.task, release=digest, size=len(data), counter=counter)

    def plan(self, plan: RolloutPlan) -> None:
        """Signs a plan for each of its tasks, and all that the cloud signs after it."""
        for task in {release.task for release in plan.releases}:
            self._target(task, plan_path(task, plan.rollout), msgspec.json.encode(plan), None)
        self._repository.snapshot({name: [self._keys[name]] for name in ("snapshot", "timestamp")})

    def hand_over(self) -> None:
        """Puts the online keys where a cloud finds them: beside the repository, not encrypted."""
        folder = self._repository.folder / "keys"
        folder.mkdir()
        for role in ("snapshot", "timestamp", CONTROL):
            (folder / f"{role}.pem").write_bytes(self._keys[role].private_bytes)  # type: ignore[attr-defined]

    def order(self, order: DeviceOrder) -> bytes:
        """Signs an order."""
        from outrider_trust.keys import PayloadSigner

        return seal(ORDER_TYPE, order, [PayloadSigner(self._keys[CONTROL])])

    def _target(self, task: str, path: str, data: bytes, custom: dict[str, object] | None) -> None:
        target = self._repository.put_target(path, data, custom) if custom else self._repository.put_target(path, data)
        metadata = self._repository.fresh(task)
        metadata.signed.targets[path] = target
        self._publish(task, metadata)

    def _publish(self, role: str, metadata: "Metadata[Any]") -> None:
        self._repository.sign(role, metadata, [self._keys[role]])
        self._repository.publish(role, metadata)


def root_of(folder: Path) -> bytes:
    """What a device is shipped with."""
    return (folder / "metadata" / "1.root.json").read_bytes()
