"""The seam to a large model: a batch of requests in, a distribution over the labels out, with what it cost.

Knows nothing of devices, queues or strategies.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from outrider_wire.messages import Fact


class LargeRequest(Struct, kw_only=True, frozen=True):
    """One input for the large model."""

    parts: Mapping[str, bytes]
    labels: Sequence[str]
    small: Sequence[float]
    """The small model's calibrated distribution, in the order of ``labels``."""
    candidates: Sequence[int] | None = None
    """Indices of the labels to score, where scoring fewer costs less; None: all."""
    tell_small: bool = False
    """Whether a language model is told ``small``."""
    facts: Sequence[Fact] = ()
    """Sub-tasks that are answered already."""

    @property
    def asked(self) -> list[int]:
        """Indices of the labels that are asked about, rising."""
        return list(range(len(self.labels))) if self.candidates is None else sorted(self.candidates)


class Cost(Struct, kw_only=True, frozen=True):
    """What one reply took."""

    tokens: int = 0
    money: float = 0.0
    """In the currency of the backend's price list."""
    ms: float = 0.0
    """This reply's share of the batch's time."""
    scores: int = 0
    """Labels that were scored, where each costs."""


class LargeReply(Struct, kw_only=True, frozen=True):
    """The large model's own calibrated distribution, before any strategy."""

    probabilities: Sequence[float]
    cost: Cost = Cost()
    captured: float = 1.0
    """Share of the model's mass that fell on the labels before they were normalised."""


class LargeRefusal(Struct, kw_only=True, frozen=True):
    """This input is not answered (its image does not decode, the server is down …); the others of the batch are not touched."""

    reason: str
    detail: str
    retry_after_s: float | None = None
    """Not the input's fault: ask again after this long. None: it ends here."""
    cost: Cost = Cost()
    """What was billed for it all the same."""


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
