"""How often a file is asked about when its model fails on it, and when next. Pure: time is an argument; who asks is not its business."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from outrider_edge.sources.settling import Mark
from outrider_wire.errors import BundleError, OutriderError, PeerError

PAUSES_S = (5.0, 30.0)
"""Before the second attempt, and before the third, which is the last."""


def is_of_the_file(error: OutriderError) -> bool:
    """Whether an error may be the file's: a model, or the agent, fails on it. What this machine lacks never is, and nobody who answers."""
    return isinstance(error, BundleError | PeerError)


class _Tried(NamedTuple):
    mark: Mark
    times: int
    due_s: float


class Attempts:
    """The files on which a model has failed and that are to be asked about again.

    Args:
        pauses_s: before each further attempt.
    """

    def __init__(self, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._pauses_s = pauses_s
        self._tried: dict[str, _Tried] = {}

    def failed(self, name: str, mark: Mark, now_s: float) -> bool:
        """Counts an attempt in vain; whether there is to be another. A file that has changed begins anew."""
        before = self._tried.pop(name, None)
        times = 1 + (before.times if before is not None and before.mark == mark else 0)
        if times > len(self._pauses_s):
            return False
        self._tried[name] = _Tried(mark, times, now_s + self._pauses_s[times - 1])
        return True

    def due(self, here: Collection[str], now_s: float) -> list[str]:
        """Those whose pause is over; what is not ``here`` any more is forgotten."""
        self._tried = {name: tried for name, tried in self._tried.items() if name in here}
        found = [name for name, tried in self._tried.items() if tried.due_s <= now_s]
        for name in found:
            self._tried[name] = self._tried[name]._replace(due_s=float("inf"))
        return found
