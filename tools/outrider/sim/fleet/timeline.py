"""What of the fleet runs which release, over time, and what it comes to. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

BAD_AT_MOST, GOOD_AT_LEAST = 0.05, 0.98


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One moment."""

    at_s: float
    """Real seconds since the first device started."""
    running: dict[str, int]
    """Devices whose power is on, by the version that answers on them."""
    off: int
    under_way: int
    """Devices on which an update is between its order and its end."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened to a rollout."""

    at_s: float
    rollout: str
    what: str


@dataclass(kw_only=True)
class Timeline:
    """In the order of time."""

    samples: list[Sample] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


class FleetFigures(Struct, kw_only=True):
    """The last line."""

    devices: int
    without_model: int
    """Moments at which a start of a device would have found no model; looked for before every change to a device's slots."""
    bad_release_reach: float
    """Share of the fleet on which the bad release ever answered."""
    good_release_reach: float
    """Share of the fleet on which the good release runs for good."""
    bytes_ratio: float
    """Bytes pulled of the good release, over whole images for as many devices."""
    requests_refused: int
    """Inputs to devices whose power was on that were not answered."""
    ends: dict[str, str] = {}
    """Rollout → the state that it came to; one still running had no more patience to wait for it."""

    def broken(self) -> Sequence[str]:
        """The promises that were not kept."""
        found = [
            (self.without_model > 0, f"{self.without_model} times a device had no model"),
            (self.requests_refused > 0, f"{self.requests_refused} inputs were refused"),
            (
                self.bad_release_reach > BAD_AT_MOST,
                f"the bad release reached {self.bad_release_reach:.1%} of the fleet",
            ),
            (
                self.good_release_reach < GOOD_AT_LEAST,
                f"the good release reached {self.good_release_reach:.1%} of the fleet",
            ),
        ]
        return [what for true, what in found if true]
