"""The agent's counters as Prometheus text, rendered when somebody asks. Counts nothing itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from outrider_edge.budget.budget import LimitView
from outrider_edge.memory.memory import MemoryView
from outrider_edge.metrics import BOUNDS_MS, CONFIDENCE_BINS, Latency, Metrics, TaskMetrics
from outrider_edge.outbox.view import OutboxView
from outrider_edge.webhooks.webhook import SinkView
from outrider_wire.messages import MonitorFigures
from outrider_wire.report import ATTRIBUTES, TERMINAL, Account

_COUNTED: tuple[tuple[str, str, str, Callable[[TaskMetrics], Mapping[str, int]]], ...] = (
    ("outrider_decisions", "The device's own answers, by how it was decided", "why", lambda kept: kept.decisions),
    ("outrider_refusals", "Inputs that got an error, by its reason", "reason", lambda kept: kept.refused),
    ("outrider_not_sent", "Inputs that should have been sent, and stayed", "reason", lambda kept: kept.not_sent),
    ("outrider_redacted", "What was taken out of texts before they left", "pattern", lambda kept: kept.redacted),
)
"""Family, help, label, and where it is counted."""


class AgentCollector(Collector):
    """Reads counters where they are kept, at the moment of the scrape.

    Args:
        metrics: of the agent.
        accounts: the account a task, what named no task included.
        connected: whether the broker can be reached now.
        budgets: how every limit stands, by task and name.
        memories: how every answer memory fares, by task.
        outbox: how the outbox fares.
        ignored: what came from the cloud and changed nothing, by reason.
        sinks: how every sink of final reports fares, by name.
        decoder_restarts: how many pictures have cost the process that decodes them.
        others: families of parts that not every agent has.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        accounts: Callable[[], Mapping[str, Account]],
        connected: Callable[[], bool],
        budgets: Callable[[], Mapping[str, Mapping[str, LimitView]]] = dict,
        memories: Callable[[], Mapping[str, MemoryView]] = dict,
        outbox: Callable[[], OutboxView | None] = lambda: None,
        ignored: Callable[[], Mapping[str, int]] = dict,
        sinks: Callable[[], Mapping[str, SinkView]] = dict,
        decoder_restarts: Callable[[], int] = int,
        others: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._metrics = metrics
        self._accounts = accounts
        self._connected = connected
        self._budgets = budgets
        self._memories = memories
        self._outbox = outbox
        self._ignored = ignored
        self._sinks = sinks
        self._decoder_restarts = decoder_restarts
        self._others = others

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
        yield from _budget_families(self._budgets())
        yield from _memory_families(self._memories())
        yield from _monitor_families(self._metrics.monitors())
        if (outbox := self._outbox()) is not None:
            yield from _outbox_families(outbox)
        yield from _sink_families(self._sinks())
        ignored = CounterMetricFamily(
            "outrider_downlink_ignored", "What came from the cloud and changed nothing", labels=["reason"]
        )
        for reason, count in self._ignored().items():
            ignored.add_metric([reason], count)
        yield ignored
        yield CounterMetricFamily(
            "outrider_decoder_restarts",
            "Pictures that crashed, overran or exhausted the process that decodes them",
            value=self._decoder_restarts(),
        )
        yield from self._others()
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


_OUTBOX: tuple[tuple[str, str, Callable[[OutboxView], float]], ...] = (
    ("outrider_outbox_entries", "Escalations that are to be delivered or answered", lambda o: o.count),
    ("outrider_outbox_max_entries", "How many there may be", lambda o: o.max_count),
    ("outrider_outbox_bytes", "Their payload that is still held", lambda o: o.bytes),
    ("outrider_outbox_max_bytes", "How much there may be", lambda o: o.max_bytes),
    ("outrider_outbox_free_bytes", "Free on its disk", lambda o: o.free_bytes),
    ("outrider_outbox_writable", "0 when nothing can be kept", lambda o: not o.fault),
    (
        "outrider_outbox_damaged_files",
        "Damaged files that were put aside and lie beside the data",
        lambda o: len(o.damaged),
    ),
)
"""Family, help, and what it shows."""


def _outbox_families(outbox: OutboxView) -> Iterator[Metric]:
    for name, what, value in _OUTBOX:
        yield GaugeMetricFamily(name, what, value=value(outbox))
    evicted = CounterMetricFamily(
        "outrider_outbox_evictions", "What made way, by the bound and by what it was worth", labels=["bound", "worth"]
    )
    for key, n in outbox.evictions.items():
        evicted.add_metric(key.split("/"), n)
    yield evicted


def _budget_families(budgets: Mapping[str, Mapping[str, LimitView]]) -> Iterator[Metric]:
    labels = ["task", "limit"]
    left = GaugeMetricFamily("outrider_budget_left", "What may still be spent in the last hour or day", labels=labels)
    bucket = GaugeMetricFamily("outrider_budget_bucket", "How full the bucket is that paces it, 0 to 1", labels=labels)
    audits = GaugeMetricFamily("outrider_budget_audits", "Spent on audits, which no limit binds", labels=labels)
    for task, limits in budgets.items():
        for name, limit in limits.items():
            left.add_metric([task, name], limit.left)
            bucket.add_metric([task, name], limit.bucket)
            audits.add_metric([task, name], limit.audits)
    yield from (left, bucket, audits)


def _memory_families(memories: Mapping[str, MemoryView]) -> Iterator[Metric]:
    entries = GaugeMetricFamily("outrider_memory_entries", "Answers of the large model at hand", labels=["task"])
    off = GaugeMetricFamily("outrider_memory_off", "Switched off: its audits disagreed too often", labels=["task"])
    audits = GaugeMetricFamily(
        "outrider_memory_audits", "Audited answers from memory under this model", labels=["task", "large_model"]
    )
    for task, memory in memories.items():
        entries.add_metric([task], memory.entries)
        off.add_metric([task], memory.off)
        audits.add_metric([task, "agrees"], memory.audited - memory.disagreed)
        audits.add_metric([task, "disagrees"], memory.disagreed)
    yield from (entries, off, audits)


def _sink_families(sinks: Mapping[str, SinkView]) -> Iterator[Metric]:
    reports = CounterMetricFamily(
        "outrider_sink_reports", "Final reports by what became of them", labels=["sink", "is"]
    )
    failing = GaugeMetricFamily("outrider_sink_failing", "1 while the receiver takes nothing", labels=["sink"])
    for name, sink in sinks.items():
        for is_ in ("taken", "refused", "given_up"):
            reports.add_metric([name, is_], getattr(sink, is_))
        failing.add_metric([name], bool(sink.failing))
    yield from (reports, failing)


_MONITORED: tuple[tuple[str, str, Callable[[MonitorFigures], float]], ...] = (
    ("outrider_monitor_alarm", "1 when audits say that the certificate's promise is broken", lambda m: m.alarm),
    (
        "outrider_monitor_statistic",
        "Evidence against the promise; an alarm is raised at the limit",
        lambda m: m.statistic,
    ),
    ("outrider_monitor_limit", "Where the alarm is raised", lambda m: m.limit),
    ("outrider_monitor_audits", "Audits that have ended under the certificate in use", lambda m: m.audits),
    ("outrider_monitor_errors", "Those that disagree with the large model, or were never answered", lambda m: m.errors),
)
"""Family, help, and what it shows. Gauges: a new certificate starts afresh."""


def _monitor_families(monitors: Mapping[str, MonitorFigures]) -> Iterator[Metric]:
    for name, what, value in _MONITORED:
        family = GaugeMetricFamily(name, what, labels=["task"])
        for task, figures in monitors.items():
            family.add_metric([task], value(figures))
        yield family


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
