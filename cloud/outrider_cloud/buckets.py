"""Token buckets by name: how often something may happen, and when it may next. Pure: time is an argument.

A bucket holds up to ``burst`` tokens and gains ``per_s`` a second (the leaky bucket as a meter, RFC 2698 in one colour). Those that
are refused are given places in line, so that who comes back when told to is not refused again.
"""

from collections import OrderedDict
from dataclasses import dataclass

NAMES = 10_000
"""Buckets that are remembered. One that is forgotten is full again, as an unused one would be."""


@dataclass
class _Bucket:
    tokens: float
    at: float
    waiting: float = 0.0
    """How many were refused and may come back."""


class Buckets:
    """One bucket a name."""

    def __init__(self, *, per_s: float, burst: float, names: int = NAMES) -> None:
        self._per_s = per_s
        self._burst = burst
        self._names = names
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, name: str, now: float) -> float:
        """0 when a token was there and is taken; else the seconds after which to come again."""
        bucket = self._of(name, now)
        gained = (now - bucket.at) * self._per_s
        bucket.tokens = min(self._burst, bucket.tokens + gained)
        bucket.waiting = max(0.0, bucket.waiting - gained)
        bucket.at = now
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        bucket.waiting += 1
        return bucket.waiting / self._per_s

    def _of(self, name: str, now: float) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._names:
                self._buckets.popitem(last=False)
            bucket = self._buckets[name] = _Bucket(tokens=self._burst, at=now)
        self._buckets.move_to_end(name)
        return bucket
