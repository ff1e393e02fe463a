"""Plain counters of what the agent does, cheap enough for every input. Knows no exposition format and no account."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable

from outrider_edge.ports import TaskFigures
from outrider_wire.messages import Milliseconds, MonitorFigures

BOUNDS_MS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)
"""Upper bounds of the latency histograms, in milliseconds."""
CONFIDENCE_BINS = 20
RECENT = 512
"""Inputs that the quantiles are of."""


class Latency:
    """A cumulative histogram, and the recent past for quantiles."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_MS) + 1)
        """Counts of the half-open intervals that `BOUNDS_MS` ends, the last one open."""
        self.sum_ms = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, ms: float) -> None:
        """One more measurement."""
        self.buckets[bisect_left(BOUNDS_MS, ms)] += 1
        self.sum_ms += ms
        self._recent.append(ms)

    def quantiles(self) -> Milliseconds:
        """``p50`` and ``p95`` of the recent past; empty when nothing was measured."""
        ordered = sorted(self._recent)
        if not ordered:
            return {}
        return {name: round(ordered[int(q * (len(ordered) - 1))], 3) for name, q in (("p50", 0.5), ("p95", 0.95))}


class TaskMetrics:
    """The counters of one task."""

    def __init__(self) -> None:
        self.confidence = [0] * CONFIDENCE_BINS
        """Of the small model, in equal bins over [0, 1]."""
        self.decisions: Counter[str] = Counter()
        """By why: ``accepted``, ``low_confidence``, …"""
        self.refused: Counter[str] = Counter()
        """Inputs that got an error instead of an answer, by its reason."""
        self.overdue = 0
        """Waits that ended without the large model's answer."""
        self.not_sent: Counter[str] = Counter()
        """Inputs that the gate wanted to send and that stayed, by what kept them."""
        self.redacted: Counter[str] = Counter()
        """What was taken out of texts before they left, by the pattern's name."""
        self.edge_ms = Latency()
        """Until the device's own answer was there."""
        self.cloud_ms = Latency()
        """Until the large model's answer was there."""

    def saw(self, confidence: float, why: str, ms: float) -> None:
        """One answer of the device's own."""
        self.confidence[min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)] += 1
        self.decisions[why] += 1
        self.edge_ms.add(ms)


class Metrics:
    """The counters of every task. ``tasks`` is fixed at the start, so that no caller can invent a label."""

    def __init__(self, *, tasks: Iterable[str]) -> None:
        self.tasks = {name: TaskMetrics() for name in tasks}
        self._monitor_of: Callable[[str], MonitorFigures | None] = lambda _: None

    def attach(self, monitor_of: Callable[[str], MonitorFigures | None]) -> None:
        """Names who knows how the watch over a task's certificate stands."""
        self._monitor_of = monitor_of

    def monitors(self) -> dict[str, MonitorFigures]:
        """The watch over each certificate in use, by task."""
        found = {name: self._monitor_of(name) for name in self.tasks}
        return {name: figures for name, figures in found.items() if figures is not None}

    def figures(self) -> list[TaskFigures]:
        """What telemetry tells."""
        return [
            TaskFigures(
                task=name,
                confidence=list(task.confidence),
                edge_ms=task.edge_ms.quantiles(),
                cloud_ms=task.cloud_ms.quantiles(),
                monitor=self._monitor_of(name),
            )
            for name, task in self.tasks.items()
        ]
