"""Removes the releases that nothing needs, with their files, when a person asks. Decides nothing: `outrider_cloud.rollout.collecting`."""

import asyncio
import logging
from functools import partial
from pathlib import Path

from outrider_cloud.clock import now_ms
from outrider_cloud.deltas import drop_stale
from outrider_cloud.rollout.collecting import Collected, collect, survey, sweep
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_cloud.trust.plans import SignedPlans

log = logging.getLogger(__name__)


class Collector:
    """Of one store; ``deltas``: the folder of what is known of deltas; ``plans`` reads what is signed, where anything is."""

    def __init__(self, *, store: Store, blobs: BlobStore, deltas: Path, plans: SignedPlans | None) -> None:
        self._store = store
        self._blobs = blobs
        self._deltas = deltas
        self._plans = plans

    async def foresee(self, *, keep: int, without: frozenset[str] = frozenset()) -> Collected:
        """What would go, if the releases ``without`` were signed no more."""
        look = partial(survey, signed=await self._signed() - without, keep=keep, now_ms=now_ms())
        return await self._store.read(look)

    async def collect(self, *, keep: int) -> Collected:
        """Removes what nothing needs; its files go after the rows that named them, and only what nothing names then,
        with the deltas to or from them."""
        signed = await self._signed()
        found, files = await self._store.write(partial(collect, signed=signed, keep=keep, now_ms=now_ms()))
        gone = await self._store.write(partial(sweep, blobs=self._blobs, digests=files))
        deltas = await asyncio.to_thread(drop_stale, self._deltas, self._blobs)
        gone += await self._store.write(partial(sweep, blobs=self._blobs, digests=deltas))
        count = sum(not each.why for each in found.releases)
        log.warning("releases.collected", extra={"releases": count, "files": gone})
        return found

    async def _signed(self) -> frozenset[str]:
        return await asyncio.to_thread(self._plans.digests) if self._plans else frozenset()
