"""A large model that costs nothing: the real fake of the seam, and what benchmarks measure everything else with."""

from collections.abc import Sequence
from typing import Literal

from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest


class ZeroModel:
    """``uniform``: every label is as likely; ``echo``: whatever the small model said."""

    def __init__(self, *, says: Literal["uniform", "echo"] = "uniform") -> None:
        self._says = says

    @property
    def name(self) -> str:
        """``zero:uniform`` or ``zero:echo``."""
        return f"zero:{self._says}"

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        """Answers at once."""
        return [LargeReply(probabilities=self._distribution(request)) for request in batch]

    async def close(self) -> None:
        """Holds nothing."""

    def _distribution(self, request: LargeRequest) -> Sequence[float]:
        return request.small if self._says == "echo" else [1.0 / len(request.labels)] * len(request.labels)
