"""From signed bytes to what is to be done: asks `outrider_trust.client` who signed, and `outrider_edge.updates.judging` whether it may be.

Everything here blocks, and one thing at a time: the metadata's folder belongs to one thread.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from outrider_edge.updates.judging import Approved, LocalFacts, judge
from outrider_trust.client import TrustedMetadata
from outrider_trust.facts import SignedPlan, SignedRelease, Versions
from outrider_trust.sources import MetadataSource
from outrider_wire.errors import OutriderError, RuleRefusalError, TrustRefusedError
from outrider_wire.rollout import DeviceOrder, Stop, stage_of

ATTACKS = frozenset(
    {
        "metadata_rolled_back",
        "metadata_unsigned",
        "metadata_mixed",
        "metadata_invalid",
        "metadata_too_large",
        "metadata_path",
        "envelope_invalid",
        "envelope_unsigned",
        "order_other_device",
        "order_reused",
        "order_ahead",
        "release_invalid",
        "plan_invalid",
        "plan_contradicted",
        "plan_beyond_canary",
        "counter_reused",
        "version_reused",
    }
)
"""Reason codes that no honest site gives: reported until the device starts anew."""


class Judge(Protocol):
    """Whoever says what may be done. Real: `OrderDesk`."""

    versions: Versions | None
    """Of the metadata that is believed; None: it was not looked at since the start."""

    def order(self, data: bytes, local: LocalFacts) -> tuple[DeviceOrder, Approved | OutriderError]:
        """A signed order, and what it asks for; or why it may not be carried out, ever.

        Raises:
            TrustError: it is not the cloud's word to this device, or the metadata cannot be believed now.
            UnreachableError: not now.
        """
        ...

    def stop(self, data: bytes) -> Stop:
        """A signed stop; errors as `order`."""
        ...

    def refresh(self) -> Versions:
        """Fetches newer metadata; errors as `order`."""
        ...

    def committed(self, task: str, counter: int) -> None:
        """A release with that counter was committed here."""
        ...

    def carried(self, folder: MetadataSource, plans: list[tuple[str, str]], local: LocalFacts) -> Approved:
        """What a folder that a person has brought asks for: its first plan (task, rollout) that this device may carry out.

        Raises:
            RuleRefusalError: none has, or it may not be carried out.
            TrustError: its metadata is not to be believed.
        """
        ...


class OrderDesk:
    """`Judge` over a device's trusted metadata.

    Args:
        folder: of the metadata.
        root: that the device was provisioned with.
        source: where metadata comes from.
        clock: UTC in seconds.
        floor: see `outrider_trust.client.ClockFloor`.
    """

    def __init__(
        self,
        *,
        folder: Path,
        root: bytes,
        source: MetadataSource,
        clock: Callable[[], float] = time.time,
        floor: Callable[[], float] | None = None,
    ) -> None:
        self.versions: Versions | None = None
        self._trusted = TrustedMetadata(folder, shipped_root=root, clock=clock, floor=floor)
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()

    def order(self, data: bytes, local: LocalFacts) -> tuple[DeviceOrder, Approved | OutriderError]:
        """As `Judge.order`."""
        with self._lock:
            order = self._opened(data, local.device)
            self.versions = self._trusted.refresh(self._source)
            try:
                return order, self._judged(order, hashlib.sha256(data).hexdigest(), self._remembering(local))
            except (RuleRefusalError, TrustRefusedError) as error:
                return order, error

    def stop(self, data: bytes) -> Stop:
        """As `Judge.stop`."""
        with self._lock:
            try:
                return self._trusted.open_stop(data)
            except TrustRefusedError:
                self.versions = self._trusted.refresh(self._source)  # the control key may be a newer one
                return self._trusted.open_stop(data)

    def refresh(self) -> Versions:
        """As `Judge.refresh`."""
        with self._lock:
            self.versions = self._trusted.refresh(self._source)
            return self.versions

    def committed(self, task: str, counter: int) -> None:
        """As `Judge.committed`."""
        with self._lock:
            self._trusted.raise_counter(task, counter)

    def carried(self, folder: MetadataSource, plans: list[tuple[str, str]], local: LocalFacts) -> Approved:
        """As `Judge.carried`."""
        with self._lock:
            self.versions = self._trusted.refresh(folder)
            local, refused = self._remembering(local), _no_plan()
            for task, rollout in plans:
                signed = self._trusted.plan(task, rollout, folder)
                if signed is None or (stage := stage_of(signed.plan, local.device, local.said)) is None:
                    continue
                order, now_ms = self._by_hand(signed, stage, local), round(self._clock() * 1000)
                try:
                    return judge(order, sha256="", signed=signed, returning={}, local=local, now_ms=now_ms)
                except RuleRefusalError as error:  # a copy of a whole repository has plans of long ago too
                    refused = error
        raise refused

    def _remembering(self, local: LocalFacts) -> LocalFacts:
        """With the release counters that the metadata's folder keeps: should the ledger be lost, they are not."""
        tasks = {
            name: replace(task, floor=max(task.floor, self._trusted.counter(name)))
            for name, task in local.tasks.items()
        }
        return replace(local, tasks=tasks)

    def _opened(self, data: bytes, device: str) -> DeviceOrder:
        try:
            return self._trusted.open_order(data, device=device)
        except TrustRefusedError as error:
            if error.reason not in ("envelope_unsigned", "metadata_missing"):
                raise
            self.versions = self._trusted.refresh(self._source)  # the control key may be a newer one
            return self._trusted.open_order(data, device=device)

    def _judged(self, order: DeviceOrder, sha256: str, local: LocalFacts) -> Approved:
        signed = self._trusted.plan(order.releases[0].task, order.rollout, self._source)
        if signed is None:
            raise RuleRefusalError(f"no plan of rollout {order.rollout} is signed", reason="plan_unsigned")
        returning: dict[str, SignedRelease] = {}
        for planned in order.releases if order.kind == "rollback" else ():
            if (found := self._trusted.release(planned.task, planned.release, self._source)) is not None:
                returning[planned.task] = found
        now_ms = round(self._clock() * 1000)
        return judge(order, sha256=sha256, signed=signed, returning=returning, local=local, now_ms=now_ms)

    def _by_hand(self, signed: SignedPlan, stage: int, local: LocalFacts) -> DeviceOrder:
        """A person stands for the cloud: within the plan, and under the number after the last order's."""
        now_ms = round(self._clock() * 1000)
        here = [planned for planned in signed.plan.releases if planned.task in local.tasks]
        if not here:
            raise RuleRefusalError("none of the plan's tasks is on this device", reason="task_not_here")
        return DeviceOrder(
            device=local.device,
            number=local.order + 1,
            rollout=signed.plan.rollout,
            stage=stage,
            releases=here,
            issued_ms=now_ms,
            expires_ms=signed.plan.expires_ms,
        )


def _no_plan() -> RuleRefusalError:
    return RuleRefusalError(
        "no signed plan in the folder has this device in a group",
        reason="not_in_group",
        fix="name the rollout, or ask for a plan that has it",
    )
