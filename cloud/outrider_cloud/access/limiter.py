"""How often somebody may try: a bucket a name that fills again with time. Pure; the time is an argument."""

from collections import OrderedDict

_NAMES = 4096
"""The longest unused is forgotten beyond, so that a flood of addresses costs no memory."""


class Limiter:
    """``burst`` tries at once, ``per_s`` a second after that, for each name."""

    def __init__(self, *, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, name: str, now: float) -> bool:
        """Whether ``name`` may try at ``now`` (seconds of any clock that only moves on); takes the try when it may."""
        left, since = self._left.pop(name, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - since) * self._per_s)
        allowed = left >= 1.0
        self._left[name] = (left - 1.0 if allowed else left, now)
        while len(self._left) > _NAMES:
            self._left.popitem(last=False)
        return allowed
