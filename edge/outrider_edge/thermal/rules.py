"""How much of the time models may run, from how warm the board is. Pure: reads no sensor and knows no clock.

Quick down, slow up, and a band between in which nothing changes, so that the rate does not swing with the fan::

    headroom (degrees until the chip throttles)
      ≤ 0                              the least duty, at once
      < margin, and not growing        half the duty
      < margin, and growing            held: the last step is doing its work
      < margin + hysteresis            held
      ≥ margin + hysteresis            a quarter more
"""

from collections.abc import Iterable
from typing import NamedTuple

from outrider_wire.profile import ThermalTerms

DOWN, UP = 0.5, 1.25


class Zone(NamedTuple):
    """One thermal zone as it was read."""

    name: str
    """Its type, as in ``cpu-thermal``; numbered where several have one."""
    temp_c: float
    passive_c: float | None
    """The lowest temperature at which the kernel throttles for it; None: it names none."""


class Heat(NamedTuple):
    """Where the controller stands."""

    duty: float = 1.0
    """Share of the time that models may run."""
    headroom_c: float | None = None
    """When it was last known."""


def limit_of(zone: Zone, terms: ThermalTerms) -> float | None:
    """Where the chip throttles for a zone: the lower of its own passive trip point and the terms'; None: not known."""
    known = [limit for limit in (zone.passive_c, terms.throttle_c) if limit is not None]
    return min(known, default=None)


def headroom(zones: Iterable[Zone], terms: ThermalTerms) -> float | None:
    """Degrees until the first zone throttles; negative beyond; None where no zone tells."""
    left = [limit - zone.temp_c for zone in zones if (limit := limit_of(zone, terms)) is not None]
    return min(left, default=None)


def after(heat: Heat, left_c: float | None, terms: ThermalTerms) -> Heat:
    """The next state, from the headroom now. Sensors that are silent change nothing."""
    if left_c is None:
        return heat
    return Heat(_duty(heat, left_c, terms), left_c)


def _duty(heat: Heat, left_c: float, terms: ThermalTerms) -> float:
    if left_c <= 0:
        return terms.least_duty
    if left_c < terms.margin_c:
        growing = heat.headroom_c is not None and left_c > heat.headroom_c
        return heat.duty if growing else max(terms.least_duty, heat.duty * DOWN)
    if left_c < terms.margin_c + terms.hysteresis_c:
        return heat.duty
    return min(1.0, heat.duty * UP)
