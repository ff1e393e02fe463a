"""Counters: cheap to add to, right when they are read."""

from prometheus_client.parser import text_string_to_metric_families

from outrider_edge.exposition import AgentCollector, page
from outrider_edge.metrics import BOUNDS_MS, RECENT, Latency, Metrics
from outrider_wire.report import Account


def test_quantiles_are_of_the_recent_past_and_the_histogram_of_all() -> None:
    latency = Latency()
    assert latency.quantiles() == {}
    for ms in [1000.0] * 100 + [float(n) for n in range(RECENT)]:
        latency.add(ms)
    assert latency.quantiles() == {"p50": 255.0, "p95": 485.0}
    assert sum(latency.buckets) == RECENT + 100


def test_a_bound_belongs_to_its_own_bucket_and_the_last_bucket_is_open() -> None:
    latency = Latency()
    for ms in (BOUNDS_MS[0], BOUNDS_MS[-1], 1e9):
        latency.add(ms)
    assert (latency.buckets[0], latency.buckets[-2], latency.buckets[-1]) == (1, 1, 1)


def test_telemetry_figures_and_the_page_come_from_the_same_counters() -> None:
    metrics = Metrics(tasks=["colours"])
    for confidence in (0.0, 0.05, 0.999, 1.0):
        metrics.tasks["colours"].saw(confidence, "accepted", 2.0)
    [figures] = metrics.figures()
    assert (figures.confidence[0], figures.confidence[1], figures.confidence[-1]) == (1, 1, 2)
    assert figures.edge_ms == {"p50": 2.0, "p95": 2.0}
    account = Account(received=4, edge=3, pending=1)
    collector = AgentCollector(metrics=metrics, accounts=lambda: {"colours": account}, connected=lambda: False)
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page(collector).decode())
        for sample in family.samples
    }
    assert found["outrider_inputs_received_total", "colours"] == 4
    assert found["outrider_inputs_pending", "colours"] == 1
    assert found["outrider_confidence_bucket", "+Inf", "colours"] == 4
    assert found["outrider_confidence_bucket", "0.05", "colours"] == 1
    assert found["outrider_answer_seconds_sum", "colours", "edge"] == 0.008
    assert found[("outrider_broker_connected",)] == 0
