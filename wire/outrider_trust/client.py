"""What a device believes of releases: verified metadata in one folder, and the cloud's signed words. Blocks; knows no topics and no states.

python-tuf is imported when metadata is first looked at, so that an agent starts without it.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from outrider_link.files import make_folder
from outrider_trust.envelope import ORDER_TYPE, STOP_TYPE, unseal
from outrider_trust.facts import (
    CANARY_FIELD,
    CONTROL,
    SignedPlan,
    SignedRelease,
    Versions,
    auto_role,
    canary_fault,
    decode_canary,
    decode_plan,
    plan_path,
    release_facts,
    release_path,
)
from outrider_trust.floor import FLOOR_FILE, Floor
from outrider_trust.sources import MetadataSource, NotHereError
from outrider_wire.errors import OperatorSetupError, TrustDamagedError, TrustRefusedError
from outrider_wire.limits import MANIFEST_BYTES
from outrider_wire.rollout import DeviceOrder, PlannedRelease, RolloutPlan, Stop

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]

    from outrider_trust.durable import DurableUpdater

T = TypeVar("T")

NUMBER_AHEAD_MS = 86_400_000
"""Orders are numbered by the time, or by ones: whoever has the control key for a moment must not use up all numbers."""

ClockFloor = Callable[[], float]
"""UTC in seconds before which it cannot be: when this was built, or what a broker or cloud last proved."""


class TrustedMetadata:
    """The metadata of one device. One process a folder, and one thread at a time.

    Args:
        folder: where it is kept; it is made.
        shipped_root: the root that the device was provisioned with.
        clock: UTC in seconds.
        floor: see `ClockFloor`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shipped_root: bytes,
        clock: Callable[[], float] = time.time,
        floor: ClockFloor | None = None,
    ) -> None:
        self._folder = folder
        self._shipped_root = shipped_root
        self._clock = clock
        self._earliest = floor or (lambda: 0.0)
        self._updater: DurableUpdater | None = None

    def refresh(self, source: MetadataSource) -> Versions:
        """Fetches what is newer and verifies it; all that it believes is durable when it returns.

        Raises:
            TrustRefusedError: ``metadata_expired``, ``metadata_rolled_back``, ``metadata_unsigned``, ``metadata_mixed``,
                ``metadata_too_large``, ``metadata_invalid``, ``metadata_missing``. What was believed before still is.
            TrustDamagedError: what is kept here is not what was written.
            TrustClockError: this device's clock is behind.
            UnreachableError: the source does not answer.
        """
        self._updater = None
        with self._locked(), _translated():
            updater = self._fresh(source)
            updater.refresh()
        self._updater = updater
        return self._versions(updater)

    def release(self, task: str, digest: str, source: MetadataSource) -> SignedRelease | None:
        """What is signed of a release; None: nobody who may has signed it. Call `refresh` first.

        Raises:
            TrustRefusedError: as `refresh`; ``release_invalid``: what is signed contradicts itself.
        """
        for automatic in (False, True):
            path = release_path(task, digest, automatic=automatic)
            if target := self.target(path, source):
                if target.hashes.get("sha256") != digest:
                    raise TrustRefusedError(f"{path} is signed with another digest", reason="release_invalid")
                facts = release_facts(target.custom, task=task)
                return SignedRelease(digest=digest, size=target.length, facts=facts, automatic=automatic)
        return None

    def plan(self, task: str, rollout: str, source: MetadataSource) -> SignedPlan | None:
        """A signed plan, and its releases, which agree with it; None: nobody who may has signed it. Call `refresh` first.

        A plan over several tasks must be signed for each of them, byte for byte.

        Raises:
            TrustRefusedError: as `refresh`; ``plan_invalid``, ``plan_contradicted`` (its releases are not signed as it says),
                ``plan_beyond_canary``.
        """
        for automatic in (False, True):
            path = plan_path(task, rollout, automatic=automatic)
            if target := self.target(path, source):
                break
        else:
            return None
        plan = decode_plan(self.target_bytes(target, source))
        tasks = {each.task for each in (*plan.releases, *plan.rollback_to)}
        if plan.rollout != rollout or task not in tasks:
            raise TrustRefusedError(
                f"{path} holds a plan of {plan.rollout}, for {sorted(tasks)}", reason="plan_invalid"
            )
        for other in sorted(tasks - {task}):
            same = self.target(plan_path(other, rollout, automatic=automatic), source)
            if same is None or same.hashes != target.hashes:
                raise _contradicted(rollout, f"it names releases of {other}, and is not signed for that task")
        if automatic:
            self._check_canary(plan, tasks, self._refreshed(source).targets)
        releases = [self._agreed(each, rollout, automatic, source) for each in plan.releases]
        for each in plan.rollback_to:
            self._agreed(each, rollout, automatic, source)
        return SignedPlan(plan=plan, releases=releases, automatic=automatic)

    def target(self, path: str, source: MetadataSource) -> "TargetFile | None":
        """The signed entry of a target, whatever it is; None: nobody who may has signed it. Call `refresh` first.

        Raises:
            TrustRefusedError, UnreachableError: as `refresh`: the role that may speak of it is fetched here.
        """
        updater = self._refreshed(source)
        with self._locked(), _translated():
            return updater.get_targetinfo(path)

    def targets_of(self, role: str, source: MetadataSource) -> "Mapping[str, TargetFile]":
        """All that a delegated role lists, by path; nothing where nobody delegates to it. Call `refresh` first. Errors as `target`."""
        updater = self._refreshed(source)
        with self._locked(), _translated():
            return updater.delegated_targets(role)

    def target_bytes(self, target: "TargetFile", source: MetadataSource) -> bytes:
        """The bytes of a small target, of that length and digest.

        Raises:
            TrustRefusedError: ``metadata_too_large`` (more than 4 MiB), ``metadata_mixed``, ``metadata_missing``.
            UnreachableError: the source does not answer.
        """
        if target.length > MANIFEST_BYTES:
            raise TrustRefusedError(f"{target.path} has {target.length} bytes", reason="metadata_too_large")
        path = f"targets/{target.path}"
        if self._refreshed(source).root.consistent_snapshot:
            folder, slash, name = path.rpartition("/")
            path = f"{folder}{slash}{next(iter(target.hashes.values()))}.{name}"
        try:
            data = source.fetch(path, target.length)
        except NotHereError as error:
            raise TrustRefusedError(f"{path} is signed, and is not there", reason="metadata_missing") from error
        with _translated():
            target.verify_length_and_hashes(data)
        return data

    def open_order(self, data: bytes, *, device: str) -> DeviceOrder:
        """The cloud's order to this device.

        Raises:
            TrustRefusedError: ``envelope_invalid``, ``envelope_unsigned``, ``order_other_device``, ``order_expired``, ``order_ahead``.
        """
        order = self._opened(data, ORDER_TYPE, DeviceOrder)
        if order.device != device:
            raise TrustRefusedError(f"the order is to {order.device}, not to {device}", reason="order_other_device")
        now_ms = max(self._clock(), self._earliest()) * 1000
        if order.expires_ms <= now_ms:
            raise TrustRefusedError(f"order {order.number} has expired", reason="order_expired")
        if order.number > now_ms + NUMBER_AHEAD_MS:
            raise TrustRefusedError(
                f"order {order.number} has a number that is far ahead of the time in milliseconds: after it none could follow",
                reason="order_ahead",
                fix="set this device's clock, and look who signs orders",
            )
        return order

    def open_stop(self, data: bytes) -> Stop:
        """The cloud's emergency stop, also where the metadata has expired since.

        Raises:
            TrustRefusedError: ``envelope_invalid``, ``envelope_unsigned``.
        """
        return self._opened(data, STOP_TYPE, Stop)

    def mend(self) -> list[str]:
        """The way out of `TrustDamagedError`: puts damaged files aside and keeps the versions that were seen; what it did.

        Raises:
            TrustDamagedError: ``metadata_lost``: those versions are lost as well; a person must remove the folder.
        """
        from outrider_trust.mending import mend_files, mend_floor  # noqa: PLC0415 - see the module

        self._updater = None
        with self._locked(), _translated():
            done = mend_floor(self._folder, self._shipped_root)
            updater = self._fresh(_Nowhere())
            with contextlib.suppress(TrustDamagedError):
                updater.load_kept_root()
            return done + mend_files(updater, self._folder)

    def counter(self, task: str) -> int:
        """The highest release counter of a task that was committed here; 0: none was."""
        floor = Floor.open(self._folder / FLOOR_FILE)
        return floor.highest.counters.get(task, 0) if floor else 0

    def raise_counter(self, task: str, counter: int) -> None:
        """Keeps that a release with this counter was committed; durable when it returns. It never falls."""
        with self._locked():
            floor = self._updater.floor if self._updater else self._fresh(_Nowhere()).floor
            floor.raise_counter(task, counter)

    def _fresh(self, source: MetadataSource) -> "DurableUpdater":
        from outrider_trust.durable import DurableUpdater  # noqa: PLC0415 - see the module

        return DurableUpdater(
            self._folder, source, shipped_root=self._shipped_root, clock=self._clock, earliest_s=self._earliest()
        )

    def _refreshed(self, source: MetadataSource) -> "DurableUpdater":
        if (updater := self._updater) is None:
            raise TrustRefusedError("the metadata was not refreshed", reason="metadata_missing", fix="refresh it first")
        updater.use(source)
        return updater

    def _agreed(self, planned: PlannedRelease, rollout: str, automatic: bool, source: MetadataSource) -> SignedRelease:
        found = self.release(planned.task, planned.release, source)
        name = f"{planned.task} {planned.release[:12]}…"
        if found is None:
            raise _contradicted(rollout, f"its release {name} is not signed")
        if found.automatic and not automatic:
            raise _contradicted(rollout, f"its release {name} is signed for the canary group alone")
        if (found.size, found.facts.counter) != (planned.size, planned.counter):
            raise _contradicted(
                rollout,
                f"its release {name} has counter {planned.counter} and {planned.size} bytes, "
                f"and is signed with {found.facts.counter} and {found.size}",
            )
        return found

    def _check_canary(self, plan: RolloutPlan, tasks: set[str], targets: "Targets") -> None:
        delegated = targets.delegations
        for task in sorted(tasks):
            role = (delegated.roles or {}).get(auto_role(task)) if delegated else None
            canary = decode_canary(role.unrecognized_fields.get(CANARY_FIELD)) if role else None
            if fault := canary_fault(plan, canary):
                raise TrustRefusedError(
                    f"automatic plan {plan.rollout} is refused: {fault}", reason="plan_beyond_canary"
                )

    def _opened(self, data: bytes, kind: str, type_: type[T]) -> T:
        keys, threshold = self._control()
        return unseal(data, kind, type_, keys=keys, threshold=threshold)

    def _control(self) -> tuple[dict[str, Callable[[bytes, bytes], bool]], int]:
        """Whoever may sign orders and stops, by what is kept here: no source is asked."""
        if self._updater:
            targets: Any = self._updater.targets
        else:
            with self._locked(), _translated():
                targets = self._fresh(_Nowhere()).kept_targets()
        delegated = targets.delegations
        role = (delegated.roles or {}).get(CONTROL) if delegated else None
        if role is None:
            return {}, 1
        return {id_: _verifier(delegated.keys[id_]) for id_ in role.keyids if id_ in delegated.keys}, role.threshold

    def _versions(self, updater: "DurableUpdater") -> Versions:
        listed = {name.removesuffix(".json"): file.version for name, file in updater.snapshot.meta.items()}
        mark = updater.floor.highest.timestamp
        return Versions(
            root=updater.root.version,
            timestamp=updater.timestamp.version,
            snapshot=updater.snapshot.version,
            targets=listed.pop("targets", 0),
            roles=listed,
            expires_s=updater.timestamp.expires.timestamp(),
            signed_s=mark.signed_s if mark else 0.0,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self._folder)
        with (self._folder / "lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OperatorSetupError(
                    f"another process works on {self._folder}", reason="trust_in_use", fix="wait until it has ended"
                ) from error
            yield


class _Nowhere:
    """A source for what needs none."""

    def fetch(self, path: str, most: int) -> bytes:
        raise NotHereError(path)


def _verifier(key: Any) -> Callable[[bytes, bytes], bool]:
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError  # noqa: PLC0415 - see the module
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]  # noqa: PLC0415

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify_signature(Signature(key.keyid, signature.hex()), message)
        except (UnverifiedSignatureError, VerificationError):
            return False
        return True

    return verify


def _contradicted(rollout: str, what: str) -> TrustRefusedError:
    return TrustRefusedError(f"plan {rollout} is refused: {what}", reason="plan_contradicted")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """python-tuf's errors as ours."""
    from outrider_trust.translating import translated  # noqa: PLC0415 - see the module

    with translated():
        yield
