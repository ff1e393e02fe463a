"""``outrider bench export``: the figures of a small model made here, the aims on made-up figures, the keys that other tools read."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from outrider.bench.export import Figures, aims, measured
from outrider.bench.export_audio import BANDS, FRAMES, log_mel
from outrider.bench.export_models import Exportable, one_input, tensors
from outrider.bench.export_sources import find_source
from outrider.bench.gate.networks import ConvNet, Fit, trained
from outrider_wire.errors import OperatorConfigError, OperatorSetupError

KEYS = {"bytes", "p50_ms", "agreement", "accuracy", "coverage"}


@pytest.fixture(scope="module")
def signals() -> Exportable:
    """Which of three places is high? Noisy enough that some are wrong."""
    import torch

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    values = rng.normal(0, 0.8, (600, 1, 24)).astype(np.float32)
    values[np.arange(600), 0, 4 + 8 * labels] += 3.0
    module = trained(
        lambda: ConvNet(space=(24,), channels=(8, 8), strides=(2, 2), width=16, labels=3, kernel=5),
        torch.from_numpy(values[:200]),
        labels[:200],
        Fit(epochs=8, batch=20, learning_rate=1e-2, weight_decay=1e-3),
        seed=0,
    )
    rows = tensors({"input": values}, labels, [str(row) for row in range(600)])
    tuning = rows.take(np.arange(200, 400))
    return Exportable(
        name="signals",
        model=module,
        inputs=one_input(values),
        tuning=tuning,
        calibration=tuning,
        support=tuning,
        test=rows.take(np.arange(400, 600)),
        risk=0.05,
    )


def test_every_variant_is_measured_in_a_process_of_its_own(signals: Exportable) -> None:
    found = measured(signals, ["fp32", "fp16", "int8"], lambda what, share: None)
    assert list(found) == ["fp32", "fp16", "int8"]
    plain, half, eight = found.values()
    assert plain.agreement == 1.0
    assert eight.bytes != plain.bytes > half.bytes
    for each in found.values():
        assert 0 < each.p50_ms <= each.p95_ms
        assert each.resident_mb > 0
        assert each.accuracy_low < each.accuracy <= each.accuracy_high
        assert 0.3 < each.coverage <= 1.0
        assert each.agreement > 0.95


def figures(size: int, agreement: float) -> Figures:
    return Figures(
        bytes=size, p50_ms=1.0, p95_ms=1.0, resident_mb=1.0, agreement=agreement, accuracy=0.9, accuracy_low=0.8,
        accuracy_high=1.0, calibration_error=0.0, coverage=0.5, ships=True, float_layers=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "eight", "agreement", "said"),
    [
        (2_000_000, 600_000, 0.995, "met"),
        (2_000_000, 600_001, 0.995, "MISSED"),
        (2_000_000, 500_000, 0.98, "MISSED"),
        (900_000, 800_000, 0.9, "no aim"),
    ],
)
def test_an_aim_is_met_missed_or_none(size: int, eight: int, agreement: float, said: str) -> None:
    [sentence] = aims({"model": {"fp32": figures(size, 1.0), "int8": figures(eight, agreement)}})
    assert said in sentence


def test_of_several_the_smallest_that_agrees_counts() -> None:
    eights = {"int8": figures(550_000, 0.999), "int8-dynamic": figures(500_000, 0.9)}
    [sentence] = aims({"model": {"fp32": figures(2_000_000, 1.0), **eights}})
    assert "int8 has" in sentence
    assert "met" in sentence


def test_what_would_not_ship_does_not_count() -> None:
    refused = msgspec.structs.replace(figures(100_000, 1.0), ships=False)
    [sentence] = aims({"model": {"fp32": figures(2_000_000, 1.0), "int8": refused}})
    assert "no INT8 variant" in sentence
    assert "MISSED" in sentence


def test_a_louder_voice_is_a_higher_log_mel() -> None:
    tone = np.sin(np.arange(4_000) * 2 * np.pi * 440 / 8_000).astype(np.float32)
    quiet, loud = log_mel(0.1 * tone), log_mel(tone)
    assert quiet.shape == (BANDS, FRAMES)
    assert loud[:, :20].max() > quiet[:, :20].max()
    assert loud[:, -1].max() < loud[:, 0].max()  # half a second of silence was added


def test_what_cannot_be_measured_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError, match="no task"):
        find_source("weather")
    with pytest.raises(OperatorSetupError) as absent:
        find_source("digits").make(0, None, tmp_path, lambda what, share: None)
    assert "--data digits=DIR" in absent.value.fix


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bench_export_prints_its_stable_keys(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "outrider", "bench", "export", "--task", "mnist1d", "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(line) == {"mnist1d-small", "mnist1d-large"}
    for variants in line.values():
        assert {"fp32", "fp16", "int8", "int8-dynamic"} <= variants.keys()
        assert all(variants[name].keys() >= KEYS for name in variants)
        assert variants["fp32"]["agreement"] == 1.0
