"""The benchmarks run, and print the keys that other tools read. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def bench(*arguments: str, timeout_s: float = 110) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "outrider", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return line


def test_bench_edge_prints_its_stable_keys() -> None:
    line = bench("edge", "--inputs", "25")
    assert {"raw_p50_ms", "pipeline_p50_ms", "http_p50_ms", "cold_start_s", "rss_mb"} <= line.keys()
    assert {"deciding_p50_ms", "memory_lookup_p50_ms"} <= line.keys()
    assert 0 < line["raw_p50_ms"] < line["pipeline_p50_ms"] < line["http_p50_ms"]


@pytest.mark.broker
def test_bench_escalate_prints_its_stable_keys() -> None:
    line = bench("escalate", "--sizes", "1024,307200", "--repeats", "5", "--sustained", "96", "--no-delivery")
    assert {"sizes", "escalations_per_s", "echo_per_s"} <= line.keys()
    assert set(line["sizes"]) == {"1024", "307200"}
    for figures in line["sizes"].values():
        assert {"echo_p50_ms", "durable_echo_p50_ms", "escalate_p50_ms", "memory_p50_ms"} <= figures.keys()


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_bench_escalate_prints_the_keys_of_delivery() -> None:
    small = ("--sizes", "1024", "--repeats", "2", "--sustained", "32", "--queued", "2000", "--drained", "200")
    line = bench("escalate", *small, "--asked", "100", timeout_s=800)
    rates = {"enqueue_per_s", "enqueue_32_per_s", "drain_per_s", "one_worker_per_s", "two_workers_per_s"}
    assert rates | {"wire_overhead", "rss_mb_100k"} <= line.keys()
    assert all(line[rate] > 0 for rate in rates)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bench_drift_prints_its_stable_keys(tmp_path: Path) -> None:
    line = bench("drift", "--seed", "1", "--seeds", "5", "--folder", str(tmp_path), timeout_s=800)
    assert {"tolerated_risk", "audits_between_false_alarms", "rules"} <= line.keys()
    for ruled in line["rules"].values():
        assert {"clean", "false_alarms", "clean_audits", "drifts"} <= ruled.keys()
        for drift in ruled["drifts"].values():
            assert {"kept", "disagreement", "risk"} <= drift["pool"].keys()
            assert [delay["clean_audits"] for delay in drift["delays"]] == [0, 2_000, 20_000]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bench_progressive_prints_its_stable_keys_and_loses_nothing_on_request(tmp_path: Path) -> None:
    line = bench("progressive", "--folder", str(tmp_path), timeout_s=800)
    assert {"seed", "escalated", "enough", "temperatures", "sources"} <= line.keys()
    ways = line["sources"]["png"]
    assert set(ways) == {"full", "jpeg-50", "jpeg-50-then-full", "thumbnail-16", "thumbnail-16-then-full"}
    for way in ways.values():
        assert {"bytes", "accuracy", "pulled", "first_accuracy"} <= way.keys()
    assert ways["jpeg-50"]["bytes"] < ways["jpeg-50-then-full"]["bytes"] < ways["full"]["bytes"]
    assert ways["jpeg-50-then-full"]["accuracy"] >= ways["full"]["accuracy"] - 0.01
