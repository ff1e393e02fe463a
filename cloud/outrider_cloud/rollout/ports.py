"""What a rollout needs of the rest of the cloud, as small protocols. Does nothing."""

from typing import Protocol

from outrider_trust.facts import SignedPlan, SignedRelease
from outrider_wire.rollout import DeviceOrder, Stop


class ControlSigner(Protocol):
    """Signs with the online control key. Both block: a key may be in another machine. Real: `outrider_cloud.trust.control.Control`."""

    def sign_order(self, order: DeviceOrder) -> bytes:
        """An encoded envelope.

        Raises:
            OutriderError: the key cannot be reached, or is refused.
        """
        ...

    def sign_stop(self, stop: Stop) -> bytes:
        """The same of a stop."""
        ...


class PlanReader(Protocol):
    """Reads what is signed. Both block, and one is asked at a time. Real: `outrider_cloud.trust.plans.SignedPlans`."""

    def plan(self, task: str, rollout: str) -> SignedPlan | None:
        """A plan whose signatures, releases and canary group were verified; None: nobody who may has signed one.

        Raises:
            OutriderError: it is signed and cannot be followed.
        """
        ...

    def release(self, task: str, digest: str) -> SignedRelease | None:
        """What is signed of a release; None: nothing."""
        ...


class Sender(Protocol):
    """How orders and stops reach devices."""

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        ...

    async def offer(self, device: str) -> bool:
        """Says to a device, retained, what stands for it; whether the broker took it."""
        ...

    async def stop(self, envelope: bytes) -> bool:
        """Says a stop to all, retained; whether the broker took it."""
        ...
