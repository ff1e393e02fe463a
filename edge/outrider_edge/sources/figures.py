"""How the sources fare: counters and one word on each, as the status page and the metrics show them. Counts nothing by itself."""

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

SourceState = Literal["starting", "up", "down", "ended"]


class SourceView(Struct, kw_only=True, frozen=True):
    """How one source fares, since the start."""

    kind: str
    task: str
    state: SourceState
    """``ended``: a file has been played to its end."""
    fault: str
    """Why it is down; '' when it is not."""
    connects: int
    """How many times it came up."""
    read: int
    """Frames, messages or files that came."""
    paced: int
    """Passed over because they came faster than ``max_fps``."""
    dropped: int
    """Given up for newer ones, because what looks at them was not done with the last."""
    looked: int
    """Frames that the gate looked at."""
    events: int
    asked: int
    """Inputs that the model was asked about."""
    refused: int
    """Of these, those without an answer."""


class Figures:
    """The counters of one source."""

    def __init__(self, *, kind: str, task: str) -> None:
        self._kind = kind
        self._task = task
        self.state: SourceState = "starting"
        self.fault = ""
        self.connects = 0
        self.read = self.paced = self.dropped = 0
        self.looked = self.events = self.asked = self.refused = 0

    def up(self) -> None:
        """It gives inputs."""
        self.connects += self.state != "up"
        self.state, self.fault = "up", ""

    def down(self, fault: str) -> None:
        """It gives none, and why."""
        self.state, self.fault = "down", fault

    def view(self) -> SourceView:
        """As it stands."""
        return SourceView(
            kind=self._kind,
            task=self._task,
            state=self.state,
            fault=self.fault,
            connects=self.connects,
            read=self.read,
            paced=self.paced,
            dropped=self.dropped,
            looked=self.looked,
            events=self.events,
            asked=self.asked,
            refused=self.refused,
        )


_COUNTED = (
    ("read", "Frames, messages or files that came"),
    ("paced", "Passed over because they came faster than max_fps"),
    ("dropped", "Given up for newer ones"),
    ("looked", "Frames that the gate looked at"),
    ("events", "Events that began"),
    ("asked", "Inputs that the model was asked about"),
    ("refused", "Of these, those without an answer"),
    ("connects", "How many times the source came up"),
)
"""Field of `SourceView`, and what it counts."""


def families(views: Mapping[str, SourceView]) -> Iterator[Metric]:
    """The same as metrics; none without a source."""
    if not views:
        return
    for field, what in _COUNTED:
        family = CounterMetricFamily(f"outrider_source_{field}", what, labels=["source"])
        for name, view in views.items():
            family.add_metric([name], getattr(view, field))
        yield family
    up = GaugeMetricFamily("outrider_source_up", "Whether the source gives inputs", labels=["source"])
    for name, view in views.items():
        up.add_metric([name], view.state == "up")
    yield up
