"""Temperature scaling finds the temperature that made the labels, and the calibration error measures it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from outrider_wire.calibration import TEMPERATURES, expected_calibration_error, fit_temperature, softmax
from outrider_wire.errors import BundleMismatchError, RuleRefusalError


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
