"""How full the outbox is, live in memory: what is held, what is on its way in, what that leaves. Reads the disk's free space only."""

import shutil
from collections.abc import Callable
from pathlib import Path

from outrider_edge.outbox.policy import Bounds, Need, need_of
from outrider_edge.outbox.waiting import Sum

MEASURED_FOR_S = 1.0
"""How long a measured free space is believed."""


class Room:
    """The bounds, and the sums that they bind.

    Args:
        bounds: what may be held.
        folder: on the disk whose free space counts.
        now: run time in seconds.
    """

    def __init__(self, *, bounds: Bounds, folder: Path, now: Callable[[], float]) -> None:
        self.bounds = bounds
        self._folder = folder
        self._now = now
        self._kept = Sum()
        self._coming = Sum()
        self._free = 0
        self._measured_at = float("-inf")

    @property
    def held(self) -> Sum:
        """What is open, on its way in included."""
        return Sum(self._kept.entries + self._coming.entries, self._kept.bytes + self._coming.bytes)

    @property
    def free_bytes(self) -> int:
        """On the disk, as of a moment ago; where the system does not tell, as much as anybody could want."""
        now = self._now()
        if not 0 <= now - self._measured_at < MEASURED_FOR_S:
            self._measured_at = now
            try:
                self._free = shutil.disk_usage(self._folder).free
            except OSError:
                self._free = 1 << 62
        return self._free

    def need(self, size: int, *, on_disk: bool) -> Need | None:
        """What must make way for an entry of that payload; None: there is room."""
        held, free = self.held, self.free_bytes if on_disk else 1 << 62
        return need_of(self.bounds, count=held.entries, bytes_held=held.bytes, size=size, free_bytes=free)

    def load(self, kept: Sum) -> None:
        """What is open, counted afresh; what is on its way in stays."""
        self._kept = kept

    def coming(self, size: int) -> None:
        """An entry is on its way in."""
        self._coming = Sum(self._coming.entries + 1, self._coming.bytes + size)

    def arrived(self, coming: int, *, kept: int | None) -> None:
        """What `coming` was told of is in, with ``kept`` bytes (equal full forms lie there once), or could not be kept: None."""
        self._coming = Sum(self._coming.entries - 1, self._coming.bytes - coming)
        if kept is not None:
            self._kept = Sum(self._kept.entries + 1, self._kept.bytes + kept)

    def closed(self) -> None:
        """A question is done with."""
        self._kept = Sum(self._kept.entries - 1, self._kept.bytes)

    def freed(self, size: int) -> None:
        """Payload has gone."""
        self._kept = Sum(self._kept.entries, self._kept.bytes - size)
