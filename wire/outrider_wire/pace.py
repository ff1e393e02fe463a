"""How fast a link is, learnt from what comes through it, and how much may be under way on it. No I/O; time is an argument.

Two things are watched for each piece: when it was sent, and when it was known to have arrived (a block that was wanted has
come, a block that was published has its PUBACK). Bytes in busy time give the rate, which decides the size of a block. The
delay above the least one ever seen is the queue that we ourselves have made in front of everybody else; it is held near
`QUEUE_S`, as LEDBAT does (RFC 6817): so that what else is said on the link waits no longer than that.
"""

import math
from collections import deque

QUEUE_S = 0.4
"""The queue that blobs may make on a link, in seconds."""
LONGEST_S = 2.0
"""Never more under way than the link carries in that time."""
ROUTE_S = 600.0
"""A least delay older than this, or than twice this, may have been of another route."""
FIRST_BLOCK = 2 * 1024
"""Bytes of a block while nothing is known of a link: 0.1 s at 20 kB/s."""
LEAST_WINDOW = 8 * 1024
MOST_WINDOW = 1024 * 1024
"""Bounds on the bytes under way; the second bounds the memory of a transfer."""
_MEMORY_S = 1.0
_LEAST_WEIGHT = 0.25
_SPAN_S = 0.05


class LinkRate:
    """Bytes a second, exponentially weighted over busy time: while nothing is under way, nothing is learnt."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        """The rate; None until something has arrived."""
        self._from = 0.0
        self._bytes = 0

    def begins(self, now: float) -> None:
        """Something is sent, and nothing was under way."""
        self._from, self._bytes = now, 0

    def arrived(self, size: int, now: float, *, last: bool) -> None:
        """``size`` bytes have come through; ``last``: nothing is under way any more."""
        self._bytes += size
        span_s = now - self._from
        if span_s <= 0 or (span_s < _SPAN_S and not last):
            return
        seen = self._bytes / span_s
        if self.bytes_per_s is None:
            self.bytes_per_s = seen
        else:
            weight = max(_LEAST_WEIGHT, 1 - math.exp(-span_s / _MEMORY_S))
            self.bytes_per_s += weight * (seen - self.bytes_per_s)
        self._from, self._bytes = now, 0


class Pace:
    """What may be under way on one link in one direction.

    Args:
        bytes_per_s: the most that may be sent in a second, over all transfers; None: no bound but the link's own.
    """

    def __init__(self, *, bytes_per_s: float | None = None) -> None:
        self.window = LEAST_WINDOW
        """Bytes that may be under way."""
        self.under_way = 0
        self._cap = bytes_per_s
        self._rate = LinkRate()
        self._sent: deque[tuple[int, float]] = deque()
        self._least_s = [math.inf, math.inf]
        self._least_since = -math.inf
        self._free_at = -math.inf

    @property
    def bytes_per_s(self) -> float | None:
        """The rate to size blocks by: the link's, or the cap where that is lower; None: not known yet."""
        known = [rate for rate in (self._rate.bytes_per_s, self._cap) if rate is not None]
        return min(known) if self._rate.bytes_per_s is not None else None

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes more may be under way; one piece always may, however large."""
        return not self.under_way or self.under_way + size <= self.window

    def wait_s(self, now: float) -> float:
        """Seconds until the cap lets the next piece go."""
        return max(0.0, self._free_at - now)

    def sent(self, size: int, now: float) -> None:
        """A piece is on its way."""
        if not self.under_way:
            self._rate.begins(now)
        self.under_way += size
        self._sent.append((size, now))
        if self._cap is not None:
            self._free_at = max(self._free_at, now) + size / self._cap

    def arrived(self, size: int, now: float) -> None:
        """The oldest ``size`` bytes under way have come through."""
        if (sent_at := self._settle(size)) is None:
            return
        self._rate.arrived(size, now, last=not self.under_way)
        queue_s = self._queue_s(now - sent_at, now)
        grown = self.window + round(size * max(-1.0, (QUEUE_S - queue_s) / QUEUE_S))
        rate = self.bytes_per_s
        most = min(MOST_WINDOW, round(LONGEST_S * rate)) if rate is not None else MOST_WINDOW
        self.window = max(LEAST_WINDOW, min(grown, most))

    def lost(self, size: int) -> None:
        """``size`` bytes under way will not come: that may be the link's fault, so that less is tried."""
        if self._settle(size) is not None:
            self.window = max(LEAST_WINDOW, self.window // 2)

    def _queue_s(self, delay_s: float, now: float) -> float:
        """What a delay is above the least of the last while."""
        if now - self._least_since > ROUTE_S:
            self._least_s, self._least_since = [self._least_s[1], math.inf], now
        self._least_s[1] = min(self._least_s[1], delay_s)
        return delay_s - min(self._least_s)

    def _settle(self, size: int) -> float | None:
        """When the oldest of these bytes was sent; None where nothing is under way."""
        if not self._sent:
            return None
        sent_at, left = self._sent[0][1], size
        while self._sent and left > 0:
            oldest, at = self._sent.popleft()
            if oldest > left:
                self._sent.appendleft((oldest - left, at))
                oldest = left
            left -= oldest
            self.under_way -= oldest
        return sent_at


class Allowance:
    """So many bytes a second, and at most ``burst`` of them at once: a bucket that fills by itself.

    Args:
        bytes_per_s: how fast it fills.
        burst: how much it holds.
    """

    def __init__(self, *, bytes_per_s: float, burst: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst = burst
        self._left = burst
        self._at = -math.inf

    def take(self, size: int, now: float) -> float:
        """Takes ``size`` bytes; the seconds to wait before they may be used."""
        if self._at > -math.inf:
            self._left = min(self._burst, self._left + (now - self._at) * self._bytes_per_s)
        self._at = now
        self._left -= size
        return max(0.0, -self._left / self._bytes_per_s)
