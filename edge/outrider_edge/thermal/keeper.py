"""Reads the zones again and again and sets the pace. Decides nothing itself: that is `outrider_edge.thermal.rules`."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from outrider_edge.thermal.pacer import Pacer
from outrider_edge.thermal.rules import Heat, Zone, after, headroom
from outrider_edge.thermal.zones import read_zones
from outrider_wire.profile import ThermalTerms

log = logging.getLogger(__name__)


class ThermalView(Struct, kw_only=True, frozen=True):
    """How warm the board is, and what that costs."""

    zones: dict[str, float]
    """Degrees Celsius by zone, as last read."""
    headroom_c: float | None
    """Degrees until the first zone throttles; None: no zone tells."""
    duty: float
    """Share of the time that models may run; 1: all of it."""
    waited: int
    """Inputs that had to wait for their turn, since the start."""
    turned_away: int
    """Inputs that got none within their deadline."""


class ThermalKeeper:
    """Keeps ``pacer`` at what the temperatures allow.

    Args:
        terms: when to slow down, and where the zones are.
        pacer: what is slowed.
        read: the zones as they are now; blocks.
    """

    def __init__(self, *, terms: ThermalTerms, pacer: Pacer, read: Callable[[], list[Zone]] | None = None) -> None:
        self._terms = terms
        self._pacer = pacer
        self._read = read or (lambda: read_zones(Path(terms.path), terms.zones))
        self._heat = Heat()
        self._zones: list[Zone] = []

    async def run(self) -> None:
        """Until cancelled."""
        await self.look()
        if self._heat.headroom_c is None:
            fix = "set thermal.throttle_c and thermal.zones, or thermal.enabled = false"
            log.warning("thermal.blind", extra={"path": self._terms.path, "zones": len(self._zones), "fix": fix})
        while True:
            await asyncio.sleep(self._terms.every_s)
            await self.look()

    async def look(self) -> None:
        """Reads once, and sets the pace."""
        self._zones = await asyncio.to_thread(self._read)
        before = self._heat
        self._heat = after(before, headroom(self._zones, self._terms), self._terms)
        self._pacer.duty = self._heat.duty
        if (self._heat.duty < 1.0) != (before.duty < 1.0):
            event = "thermal.slowed" if self._heat.duty < 1.0 else "thermal.full_rate"
            log.warning(event, extra={"headroom_c": self._heat.headroom_c, "duty": self._heat.duty})

    def view(self) -> ThermalView:
        """How it stands."""
        return ThermalView(
            zones={zone.name: zone.temp_c for zone in self._zones},
            headroom_c=None if self._heat.headroom_c is None else round(self._heat.headroom_c, 3),
            duty=round(self._heat.duty, 4),
            waited=self._pacer.waited,
            turned_away=self._pacer.turned_away,
        )


def families(view: ThermalView) -> Iterator[Metric]:
    """The same as metrics."""
    degrees = GaugeMetricFamily("outrider_temperature_celsius", "Of each thermal zone", labels=["zone"])
    for zone, temp_c in view.zones.items():
        degrees.add_metric([zone], temp_c)
    yield degrees
    if view.headroom_c is not None:
        yield GaugeMetricFamily(
            "outrider_thermal_headroom_celsius", "Until the first zone throttles", value=view.headroom_c
        )
    yield GaugeMetricFamily("outrider_thermal_duty", "Share of the time that models may run", value=view.duty)
    yield CounterMetricFamily("outrider_thermal_waits", "Inputs that waited for their turn", value=view.waited)
    yield CounterMetricFamily("outrider_thermal_turned_away", "Inputs that got no turn", value=view.turned_away)
