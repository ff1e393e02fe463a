"""What a running cloud does beside answering: keeps its leases, takes over from workers that fell silent, forgets in time."""

import asyncio
import logging
from functools import partial

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.intake import Intake
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_FORGET_EVERY_S = 600.0
_FORGET_AFTER_MS = 86_400_000


class Housekeeping:
    """One loop; a turn that fails is logged, counted, and made up for by the next."""

    def __init__(
        self,
        *,
        name: str,
        store: Store,
        intake: Intake,
        deliveries: Deliveries,
        pulls: Pulls,
        lease_s: float,
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._store = store
        self._intake = intake
        self._deliveries = deliveries
        self._pulls = pulls
        self._lease_s = lease_s
        self._metrics = metrics

    async def run(self) -> None:
        """Second by second, until it is cancelled."""
        loop = asyncio.get_running_loop()
        renew_at, forget_at = loop.time() + self._lease_s / 3, loop.time()
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self._deliveries.flush()
                if loop.time() >= renew_at:
                    renew_at = loop.time() + self._lease_s / 3
                    await self._renew()
                if loop.time() >= forget_at:
                    forget_at = loop.time() + _FORGET_EVERY_S
                    await self._forget()
            except Exception:  # supervised: a full disk now is no reason never to tidy again
                log.exception("housekeeping.failed")
                self._metrics.error("housekeeping")

    async def _renew(self) -> None:
        until_ms = now_ms() + round(self._lease_s * 1000)
        await self._store.write(partial(inputs.renew, worker=self._name, lease_until_ms=until_ms))
        await self._intake.take_over(own=False)

    async def _forget(self) -> None:
        before_ms = now_ms() - _FORGET_AFTER_MS
        await self._store.write(partial(inputs.forget, before_ms=before_ms))
        await asyncio.to_thread(self._pulls.tidy, now_ms() / 1000)
