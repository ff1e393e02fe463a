"""The agent's counters as Prometheus text, rendered when somebody asks. Counts nothing itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from outrider_edge.metrics import BOUNDS_MS, CONFIDENCE_BINS, Latency, Metrics, TaskMetrics
from outrider_wire.report import ATTRIBUTES, TERMINAL, Account

_COUNTED: tuple[tuple[str, str, str, Callable[[TaskMetrics], Mapping[str, int]]], ...] = (
    ("outrider_decisions", "The device's own answers, by how it was decided", "why", lambda kept: kept.decisions),
    ("outrider_refusals", "Inputs that got an error, by its reason", "reason", lambda kept: kept.refused),
    ("outrider_not_sent", "Inputs that should have been sent, and stayed", "reason", lambda kept: kept.not_sent),
)
"""Family, help, label, and where it is counted."""


class AgentCollector(Collector):
    """Reads counters where they are kept, at the moment of the scrape.

    Args:
        metrics: of the agent.
        accounts: the account a task, what named no task included.
        connected: whether the broker can be reached now.
    """

    def __init__(
        self, *, metrics: Metrics, accounts: Callable[[], Mapping[str, Account]], connected: Callable[[], bool]
    ) -> None:
        self._metrics = metrics
        self._accounts = accounts
        self._connected = connected

    def collect(self) -> Iterable[Metric]:
        """Every family, in a fixed order."""
        accounts = self._accounts()
        yield from _account_families(accounts)
        tasks = self._metrics.tasks
        for name, what, label, counted in _COUNTED:
            yield _counts(name, what, label, {task: counted(kept) for task, kept in tasks.items()})
        overdue = CounterMetricFamily(
            "outrider_overdue", "Waits that ended without the large model's answer", labels=["task"]
        )
        seconds = HistogramMetricFamily("outrider_answer_seconds", "Until the answer was there", labels=["task", "by"])
        confidence = HistogramMetricFamily("outrider_confidence", "The small model's confidence", labels=["task"])
        for name, task in tasks.items():
            overdue.add_metric([name], task.overdue)
            seconds.add_metric([name, "edge"], *_latency(task.edge_ms))
            seconds.add_metric([name, "cloud"], *_latency(task.cloud_ms))
            edges = [str((bin_ + 1) / CONFIDENCE_BINS) for bin_ in range(CONFIDENCE_BINS - 1)]
            middle = sum(count * (bin_ + 0.5) / CONFIDENCE_BINS for bin_, count in enumerate(task.confidence))
            confidence.add_metric([name], _cumulative(edges, task.confidence), middle)
        yield from (overdue, seconds, confidence)
        yield GaugeMetricFamily(
            "outrider_broker_connected", "Whether the broker can be reached", value=self._connected()
        )


def page(collector: AgentCollector) -> bytes:
    """The metrics page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _account_families(accounts: Mapping[str, Account]) -> Iterator[Metric]:
    received = CounterMetricFamily("outrider_inputs_received", "Inputs that arrived", labels=["task"])
    ended = CounterMetricFamily("outrider_inputs", "Inputs by their one terminal state", labels=["task", "state"])
    marked = CounterMetricFamily("outrider_inputs_marked", "Inputs by what else is true of them", labels=["task", "is"])
    pending = GaugeMetricFamily("outrider_inputs_pending", "Inputs that have not ended", labels=["task"])
    for task, account in accounts.items():
        received.add_metric([task], account.received)
        pending.add_metric([task], account.pending)
        for state in TERMINAL:
            ended.add_metric([task, state], getattr(account, state))
        for name in ATTRIBUTES:
            marked.add_metric([task, name], getattr(account, name))
    yield from (received, ended, marked, pending)


def _counts(name: str, what: str, label: str, counts: Mapping[str, Mapping[str, int]]) -> Metric:
    family = CounterMetricFamily(name, what, labels=["task", label])
    for task, by in counts.items():
        for key, value in by.items():
            family.add_metric([task, key], value)
    return family


def _latency(latency: Latency) -> tuple[list[tuple[str, float]], float]:
    return _cumulative([str(bound / 1e3) for bound in BOUNDS_MS], latency.buckets), latency.sum_ms / 1e3


def _cumulative(edges: list[str], counts: list[int]) -> list[tuple[str, float]]:
    """Pairs of upper bound and how many lie below it; the last bound is infinity."""
    below = 0
    pairs: list[tuple[str, float]] = []
    for edge, count in zip([*edges, "+Inf"], counts, strict=True):
        below += count
        pairs.append((edge, below))
    return pairs
