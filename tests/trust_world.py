"""A repository with real keys and real metadata, and a device that reads it. Made in milliseconds; no file is encrypted here."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner

from outrider_trust.client import TrustedMetadata
from outrider_trust.envelope import ORDER_TYPE, STOP_TYPE, seal
from outrider_trust.facts import (
    CANARY_FIELD,
    CONTROL,
    CONTROL_PATH,
    Canary,
    ReleaseFacts,
    auto_paths,
    auto_role,
    encode_canary,
    plan_path,
    release_path,
    task_paths,
)
from outrider_trust.keys import PayloadSigner
from outrider_trust.repository import Repository, delegate
from outrider_trust.sources import DirectorySource, NotHereError
from outrider_wire.errors import OutriderError
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease, RolloutPlan, Stop

TASK = "easy-vqa"
NOW_S = 1_800_000_000.0
SALT = "0123456789abcdef"
CANARY = Canary(group=Group(name="canary", share=0.01), salt="canary-salt-0000")


class Clock:
    """UTC that a test moves."""

    def __init__(self, at_s: float = NOW_S) -> None:
        self.at_s = at_s

    def __call__(self) -> float:
        return self.at_s


class Site:
    """The offline keys, the online keys, and the repository that they sign."""

    def __init__(
        self, folder: Path, *, tasks: tuple[str, ...] = (TASK,), clock: Clock | None = None, canary: Canary = CANARY
    ) -> None:
        self.canary = canary
        self.clock = clock or Clock()
        self.repository = Repository(folder, self.clock)
        self.repository.make()
        self.roots = [CryptoSigner.generate_ed25519() for _ in range(3)]
        self.targets, self.snapshot, self.timestamp, self.control = (CryptoSigner.generate_ed25519() for _ in range(4))
        self.tasks = {task: CryptoSigner.generate_ed25519() for task in tasks}
        self.autos = {task: CryptoSigner.generate_ed25519() for task in tasks}
        self.sign_root()
        self.sign_targets()
        for task in tasks:
            self.publish_role(task)
            self.publish_role(auto_role(task), task=task)
        self.online()

    @property
    def root(self) -> bytes:
        """The first root, as a device is shipped with it."""
        return (self.repository.metadata / "1.root.json").read_bytes()

    @property
    def source(self) -> DirectorySource:
        """The repository, as a device reads it."""
        return DirectorySource(self.repository.folder)

    def sign_root(self) -> None:
        """Makes the first root."""
        metadata = self.repository.fresh("root")
        for signer in self.roots:
            metadata.signed.add_key(signer.public_key, "root")
        metadata.signed.roles["root"].threshold = 2
        for role in ("targets", "snapshot", "timestamp"):
            metadata.signed.add_key(getattr(self, role).public_key, role)
        self.repository.sign("root", metadata, self.roots[:2])
        self.repository.publish("root", metadata)

    def sign_targets(self) -> None:
        """Delegates to tasks and control."""
        metadata = self.repository.fresh("targets")
        for task, signer in self.tasks.items():
            delegate(metadata.signed, task, task_paths(task), [signer.public_key])
            auto = delegate(metadata.signed, auto_role(task), auto_paths(task), [self.autos[task].public_key])
            auto.unrecognized_fields[CANARY_FIELD] = encode_canary(self.canary)
        delegate(metadata.signed, CONTROL, [CONTROL_PATH], [self.control.public_key])
        self.repository.sign("targets", metadata, [self.targets])
        self.repository.publish("targets", metadata)

    def publish_role(self, role: str, *, task: str = "", targets: Mapping[str, Any] | None = None) -> None:
        """The next version of a delegated role, with further targets."""
        metadata = self.repository.fresh(role)
        metadata.signed.targets.update(targets or {})
        signer = self.autos[task] if task else self.tasks[role]
        self.repository.sign(role, metadata, [signer])
        self.repository.publish(role, metadata)

    def online(self) -> None:
        """What the cloud does after every change."""
        self.repository.snapshot({"snapshot": [self.snapshot], "timestamp": [self.timestamp]})

    def release(self, counter: int = 1, *, task: str = TASK, automatic: bool = False, **facts: Any) -> PlannedRelease:
        """Signs a release, whose manifest is any bytes."""
        data = json.dumps({"task": task, "counter": counter, "automatic": automatic}).encode()
        digest = hashlib.sha256(data).hexdigest()
        about = ReleaseFacts(task=task, version=f"1.{counter}", counter=counter, **facts)
        path = release_path(task, digest, automatic=automatic)
        target = self.repository.put_target(path, data, msgspec.to_builtins(about))
        self.publish_role(
            auto_role(task) if automatic else task, task=task if automatic else "", targets={path: target}
        )
        self.online()
        return PlannedRelease(task=task, release=digest, size=len(data), counter=counter)

    def plan(self, plan: RolloutPlan, *, task: str = TASK, automatic: bool = False) -> RolloutPlan:
        """Signs a plan for one task."""
        path = plan_path(task, plan.rollout, automatic=automatic)
        target = self.repository.put_target(path, msgspec.json.encode(plan))
        self.publish_role(
            auto_role(task) if automatic else task, task=task if automatic else "", targets={path: target}
        )
        self.online()
        return plan

    def order(self, order: DeviceOrder, *, kind: str = ORDER_TYPE, signers: list[CryptoSigner] | None = None) -> bytes:
        """An order, signed by the cloud."""
        return seal(kind, order, [PayloadSigner(each) for each in (signers or [self.control])])

    def stop(self, stop: Stop, *, signers: list[CryptoSigner] | None = None) -> bytes:
        """A stop, signed by the cloud."""
        return seal(STOP_TYPE, stop, [PayloadSigner(each) for each in (signers or [self.control])])

    def device(self, folder: Path, **more: Any) -> TrustedMetadata:
        """A device that was shipped with the first root."""
        return TrustedMetadata(folder, shipped_root=self.root, clock=self.clock, **more)


def a_plan(*releases: PlannedRelease, **more: Any) -> RolloutPlan:
    """A plan that starts now."""
    about: dict[str, Any] = {
        "rollout": "r1",
        "groups": [Group(name="canary", share=0.01), Group(name="all")],
        "salt": SALT,
        "start_ms": int(NOW_S * 1000),
        "expires_ms": int((NOW_S + 86400 * 7) * 1000),
    }
    return RolloutPlan(releases=list(releases), **(about | more))


def an_order(plan: RolloutPlan, **more: Any) -> DeviceOrder:
    """The first order to one device."""
    about: dict[str, Any] = {
        "device": "cam-1",
        "number": 1,
        "rollout": plan.rollout,
        "stage": 0,
        "releases": plan.releases,
        "issued_ms": int(NOW_S * 1000),
        "expires_ms": int((NOW_S + 3600) * 1000),
    }
    return DeviceOrder(**(about | more))


class Remembered:
    """A source that answers from memory: what an attacker kept, changed or mixed."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.asked: list[str] = []

    @classmethod
    def of(cls, repository: Repository) -> "Remembered":
        """All of a repository as it is now."""
        folder = repository.folder
        return cls({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")})

    def fetch(self, path: str, most: int) -> bytes:
        self.asked.append(path)
        if path not in self.files:
            raise NotHereError(path)
        return self.files[path]


def reason(act: Callable[[], Any]) -> str:
    """Why it is refused; '' when it is not."""
    try:
        act()
    except OutriderError as error:
        return error.reason
    return ""
