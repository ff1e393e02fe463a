"""Temperature scaling finds the temperature that made the labels, and the calibration error measures it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from outrider_wire.calibration import (
    PRIOR,
    TEMPERATURES,
    calibrated,
    calibration_gap,
    expected_calibration_error,
    fit_temperature,
    fit_vector,
    negative_log_likelihood,
    reliability,
    softmax,
)
from outrider_wire.errors import BundleMismatchError, RuleRefusalError
from outrider_wire.manifest import Calibration


def labelled(temperature: float, n: int = 4000, k: int = 5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (n, k))
    drawn = softmax(logits, temperature).cumsum(axis=1) > rng.random((n, 1))
    return logits, drawn.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5, 6.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*labelled(temperature)) == pytest.approx(temperature, rel=0.1)


def test_it_is_the_minimum_of_the_likelihood_that_scipy_finds() -> None:
    logits, labels = labelled(1.7)

    def loss(t: float) -> float:
        return float(-np.log(softmax(logits, t)[np.arange(len(labels)), labels]).mean())

    assert fit_temperature(logits, labels) == pytest.approx(
        minimize_scalar(loss, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-8}).x, rel=1e-4
    )


def test_the_temperature_is_bounded_where_the_likelihood_has_no_minimum() -> None:
    """Without an error any lower temperature is better, until the slope vanishes; where all is wrong, any higher one is."""
    logits = np.eye(4) * 5
    assert TEMPERATURES[0] <= fit_temperature(logits, np.arange(4)) < 0.2
    assert fit_temperature(logits, (np.arange(4) + 1) % 4) == pytest.approx(TEMPERATURES[1])


def test_calibration_lowers_the_calibration_error() -> None:
    logits, labels = labelled(3.0)
    before = expected_calibration_error(softmax(logits), labels)
    after = expected_calibration_error(softmax(logits, fit_temperature(logits, labels)), labels)
    assert before > 0.15
    assert after < 0.03


def test_the_calibration_error_of_a_known_case() -> None:
    """Four answers at 90 %, three right: |0.9 − 0.75|."""
    probabilities = np.array([[0.9, 0.1]] * 4)
    assert expected_calibration_error(probabilities, [0, 0, 0, 1], bins=1) == pytest.approx(0.15)
    assert expected_calibration_error(np.empty((0, 2)), []) == 0.0


def test_fewer_rows_than_bins_are_no_error() -> None:
    assert expected_calibration_error([[1.0, 0.0]], [0]) == 0.0


def test_softmax_survives_huge_logits_and_takes_one_row_or_many() -> None:
    assert list(softmax([1000.0, 0.0])) == [1.0, 0.0]
    rows = softmax(np.float32([[1, 2, 3], [3, 2, 1]]), 2.0)
    assert rows.dtype == np.float64
    assert rows.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_no_rows_and_no_numbers_are_refused() -> None:
    with pytest.raises(RuleRefusalError, match="no rows"):
        fit_temperature(np.empty((0, 3)), [])
    with pytest.raises(BundleMismatchError, match="not finite"):
        fit_temperature([[np.nan, 1.0]], [0])


SCALE, BIAS = np.array([1.6, 1.0, 0.6, 1.2, 0.8]), np.array([0.0, 0.8, -0.8, 0.4, -0.4])


def drawn(
    n: int, seed: int, scale: NDArray[np.float64], bias: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and labels drawn from softmax(scale · logits + bias)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, len(scale)))
    return logits, (softmax(scale * logits + bias).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def test_vector_scaling_finds_the_scales_and_biases_that_made_the_labels() -> None:
    found = fit_vector(*drawn(20_000, 1, SCALE, BIAS))
    assert np.array(found.scale) / found.temperature == pytest.approx(SCALE, abs=0.06)
    assert np.array(found.bias) - np.mean(found.bias) == pytest.approx(BIAS, abs=0.08)


def test_vector_scaling_is_the_minimum_that_scipy_finds() -> None:
    logits, labels = drawn(300, 2, SCALE, BIAS)
    found = fit_vector(logits, labels)
    z, penalty, rest = logits / found.temperature, np.repeat(1 / np.square(PRIOR), 5) / 300, np.repeat([1.0, 0.0], 5)

    def loss(theta: NDArray[np.float64]) -> float:
        p = softmax(theta[:5] * z + theta[5:])
        return negative_log_likelihood(p, labels) + float(penalty @ (theta - rest) ** 2) / 2

    best = minimize(loss, rest, method="BFGS", options={"gtol": 1e-7})
    assert loss(np.array(found.scale + found.bias)) == pytest.approx(best.fun, abs=1e-7)


@pytest.mark.parametrize("made_by", ["a temperature", "scales and biases"])
def test_vector_scaling_is_never_worse_than_a_temperature_beyond_noise(made_by: str) -> None:
    """On left-out rows of 40 small draws: where a temperature is the truth it costs under 2 %, where it is not it gains."""
    scale, bias = (np.full(5, 0.6), np.zeros(5)) if made_by == "a temperature" else (SCALE, BIAS)
    held, truth = drawn(4000, 3, scale, bias)
    gains = []
    for seed in range(40):
        logits, labels = drawn(300, 100 + seed, scale, bias)
        plain = Calibration(temperature=fit_temperature(logits, labels))
        losses = [negative_log_likelihood(calibrated(held, c), truth) for c in (plain, fit_vector(logits, labels))]
        gains.append(1 - losses[1] / losses[0])
    assert np.mean(gains) > (-0.02 if made_by == "a temperature" else 0.03)


def test_vector_scaling_is_the_same_every_time_and_survives_a_label_without_rows() -> None:
    logits, labels = drawn(200, 4, SCALE, BIAS)
    labels = np.where(labels == 2, 1, labels)
    found = fit_vector(logits, labels)
    assert found == fit_vector(logits, labels)
    assert np.isfinite([*found.scale, *found.bias]).all()
    with pytest.raises(RuleRefusalError):
        fit_vector(np.empty((0, 3)), [])


def test_reliability_bins_hold_all_rows_and_give_the_calibration_error() -> None:
    confidence, right = np.linspace(0.5, 1.0, 100), np.arange(100) >= 50
    bins = reliability(confidence, right, bins=4)
    assert [each.n for each in bins] == [25] * 4
    assert [each.accuracy for each in bins] == [0.0, 0.0, 1.0, 1.0]
    assert calibration_gap(bins) == pytest.approx(np.mean([abs(each.confidence - each.accuracy) for each in bins]))
