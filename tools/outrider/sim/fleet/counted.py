"""A device's source of releases, with what came over it counted."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from outrider_edge.uplink.uplink import Uplink


class CountedSource:
    """`outrider_edge.updates.fetching.ReleaseSource` and `outrider_edge.updates.deltas.DeltaSource` over a real uplink.

    Args:
        uplink: asked.
        release: which release the device is fetching now.
        pulled: bytes by release, added to.
    """

    def __init__(self, *, uplink: Uplink, release: Callable[[], str], pulled: Counter[str]) -> None:
        self._uplink = uplink
        self._release = release
        self._pulled = pulled

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        """As `outrider_edge.updates.fetching.ReleaseSource`."""
        data = await self._uplink.pull_manifest(sha256=sha256, size=size)
        self._pulled[self._release()] += len(data)
        return data

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """As `outrider_edge.updates.fetching.ReleaseSource`."""
        path = await self._uplink.pull_file(sha256=sha256, size=size, to=to)
        self._pulled[self._release()] += size
        return path

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        """As `outrider_edge.updates.deltas.DeltaSource`."""
        base = await self._uplink.pull_delta(sha256=sha256, size=size, bases=bases, to=to)
        if base is not None:
            self._pulled[self._release()] += (await asyncio.to_thread(to.stat)).st_size
        return base
