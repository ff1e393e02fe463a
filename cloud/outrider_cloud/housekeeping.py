"""What a running cloud does beside answering, as a table of chores: keeps its leases, takes over, forgets in time, tells its state.

A chore that fails is logged, counted, and made up for by its next turn; it keeps no other from its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from outrider_cloud.access.gatekeeper import read_roster
from outrider_cloud.access.roster import Roster
from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.answering.settler import Settler
from outrider_cloud.intake.intake import Intake
from outrider_cloud.metrics import Metrics
from outrider_cloud.seldom import Seldom
from outrider_cloud.store.retention import Keeper
from outrider_cloud.store.store import Store

log = logging.getLogger(__name__)
log.addFilter(Seldom())

_EVERY_S = 1.0
_KEEP_EVERY_S = 600.0
_LAG_EVERY_S = 0.25


class Chore(NamedTuple):
    """One line of the table."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[object]]


class Housekeeping:
    """A loop for each line of the table, and one that watches the event loop itself."""

    def __init__(
        self,
        *,
        store: Store,
        intake: Intake,
        settler: Settler,
        deliveries: Deliveries,
        keeper: Keeper,
        lease_s: float,
        roster: Roster,
        metrics: Metrics,
        more: Iterable[Chore] = (),
    ) -> None:
        self._store = store
        self._taking_over = intake.taking
        self._metrics = metrics
        self._more = False
        self._taking = asyncio.Lock()
        self.chores = (
            Chore("renew", lease_s / 3, settler.renew),
            Chore("take_over", lease_s / 3, self._take_over),
            Chore("take_back", lease_s / 3, self._take_back),
            Chore("roster", lease_s / 3, partial(read_roster, store, roster)),
            Chore("take_more", _EVERY_S, self._take_more),
            Chore("expire", _EVERY_S, intake.expire),
            Chore("flush", _EVERY_S, deliveries.flush),
            Chore("probe", _EVERY_S, self._probe),
            Chore("keep", _KEEP_EVERY_S, keeper.keep),
            *more,
        )

    async def run(self) -> None:
        """Each chore in its own time, until it is cancelled: tidying may take minutes, and a lease runs out in less."""
        async with asyncio.TaskGroup() as group:
            for chore in self.chores:
                group.create_task(self._repeat(chore), name=chore.name)

    async def _repeat(self, chore: Chore) -> None:
        await asyncio.sleep(min(chore.every_s, _EVERY_S))
        while True:
            await self._do(chore)
            await asyncio.sleep(chore.every_s)

    async def watch_loop(self) -> None:
        """How late the event loop comes round, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._metrics.loop_lag.observe(max(0.0, loop.time() - due))

    async def _do(self, chore: Chore) -> None:
        try:
            await chore.work()
        except Exception:  # supervised: a full disk now is no reason never to tidy again
            with suppress(Exception):  # there may be no memory for a line either
                log.exception("housekeeping.failed", extra={"chore": chore.name})
            self._metrics.error("housekeeping")

    async def _take_over(self) -> None:
        async with self._taking:  # room that is free is not given away twice
            self._more = await self._taking_over.take_over(own=False) > 0

    async def _take_back(self) -> None:
        async with self._taking:
            await self._taking_over.take_back()

    async def _take_more(self) -> None:
        """While there is more than there was room for, it is taken up as room comes."""
        if self._more:
            await self._take_over()

    async def _probe(self) -> None:
        """In trouble, tries whether it is over; nobody else may have anything to write."""
        if self._store.full and not self._store.damage:
            await self._store.probe()
