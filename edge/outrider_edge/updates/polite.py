"""A source of releases that keeps to what stands against fetching: a link that has become metered, before a file or in the middle of one.

What comes over the link is cut off where it is and goes on from there: a pull resumes at any byte that it has (`outrider_link.blobs`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from outrider_edge.updates.deltas import DeltaSource
from outrider_edge.updates.fetching import ReleaseSource
from outrider_edge.updates.folder import FolderSource

T = TypeVar("T")

MayGoOn = Callable[[], Coroutine[Any, Any, None]]
"""Returns when nothing stands against another byte."""
Stands = Callable[[], bool]
"""Whether something does."""


def polite(source: ReleaseSource, *, may_go_on: MayGoOn, stands: Stands, look_s: float) -> ReleaseSource:
    """The same source, with its deltas if it has them. A folder's costs no link anything, and is asked as it is.

    Args:
        look_s: how often it is looked at whether something stands against it while a pull is under way.
    """
    if isinstance(source, FolderSource):
        return source
    link = _Link(may_go_on, stands, look_s)
    return _PoliteWithDeltas(source, source, link) if isinstance(source, DeltaSource) else _Polite(source, link)


class _Link:
    """When it may be used."""

    def __init__(self, may_go_on: MayGoOn, stands: Stands, look_s: float) -> None:
        self._may_go_on = may_go_on
        self._stands = stands
        self._look_s = look_s

    async def use(self, pull: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What ``pull`` gives; begun again, to resume, after each time that something stood against it."""
        while True:
            await self._may_go_on()
            pulling = asyncio.create_task(pull())
            try:
                while not (await asyncio.wait([pulling], timeout=self._look_s))[0]:
                    if self._stands():
                        break
                else:
                    return await pulling
            finally:
                pulling.cancel()
                await asyncio.gather(pulling, return_exceptions=True)


class _Polite:
    def __init__(self, source: ReleaseSource, link: _Link) -> None:
        self._source = source
        self._link = link

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        return await self._link.use(lambda: self._source.pull_manifest(sha256=sha256, size=size))

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        return await self._link.use(lambda: self._source.pull_file(sha256=sha256, size=size, to=to))


class _PoliteWithDeltas(_Polite):
    def __init__(self, source: ReleaseSource, deltas: DeltaSource, link: _Link) -> None:
        super().__init__(source, link)
        self._deltas = deltas

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        return await self._link.use(lambda: self._deltas.pull_delta(sha256=sha256, size=size, bases=bases, to=to))
