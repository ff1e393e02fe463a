"""The seam to a large model: a batch of requests in, a distribution over the labels out, with what it cost.

Knows nothing of devices, queues or strategies.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct


class LargeRequest(Struct, kw_only=True, frozen=True):
    """One input for the large model."""

    parts: Mapping[str, bytes]
    labels: Sequence[str]
    small: Sequence[float]
    """The small model's calibrated distribution, in the order of ``labels``."""


class Cost(Struct, kw_only=True, frozen=True):
    """What one reply took."""

    tokens: int = 0
    money: float = 0.0
    """In the currency of the backend's price list."""
    ms: float = 0.0
    """This reply's share of the batch's time."""


class LargeReply(Struct, kw_only=True, frozen=True):
    """The large model's own calibrated distribution, before any strategy."""

    probabilities: Sequence[float]
    cost: Cost = Cost()


class LargeRefusal(Struct, kw_only=True, frozen=True):
    """This input cannot be asked about (its image does not decode, …); the others of the batch are not touched."""

    reason: str
    detail: str


class LargeModel(Protocol):
    """What every backend offers."""

    @property
    def name(self) -> str:
        """Name and revision: what an answer cites."""
        ...

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        """One reply a request, in order. An error raised is about the whole batch, and is retried."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...
