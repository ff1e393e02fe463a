"""Vector scaling is chosen where it predicts left-out groups better, and not where it only fits the rows at hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from outrider_export.choices import choose_calibration
from outrider_wire.calibration import softmax

SCALE, BIAS = np.array([2.0, 1.0, 0.4, 1.0]), np.array([0.0, 1.0, -1.0, 0.0])


def drawn(n: int, seed: int, *, skewed: bool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 4))
    meant = SCALE * logits + BIAS if skewed else 0.7 * logits
    return logits, (softmax(meant).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def test_it_is_chosen_where_answers_are_over_and_under_sure() -> None:
    assert choose_calibration(*drawn(400, 1, skewed=True)).method == "vector"


def test_a_temperature_stays_where_it_is_the_truth() -> None:
    """One standard error lets about one draw in six through by chance; the penalty of fitting leaves fewer."""
    chosen = [choose_calibration(*drawn(300, seed, skewed=False)).method for seed in range(24)]
    assert chosen.count("vector") <= 4


def test_it_is_not_tried_with_few_rows_or_few_groups() -> None:
    logits, labels = drawn(39, 1, skewed=True)
    assert choose_calibration(logits, labels).method == "temperature"
    logits, labels = drawn(400, 1, skewed=True)
    assert choose_calibration(logits, labels, [str(row % 3) for row in range(400)]).method == "temperature"


def test_copies_of_a_row_in_one_group_prove_nothing_more() -> None:
    """Eight copies of 30 rows of a model that only needs a temperature: taken one by one they convince far too often."""
    apart, together = 0, 0
    groups = [str(row // 8) for row in range(240)]
    for seed in range(20):
        logits, labels = drawn(30, seed, skewed=False)
        copies = np.repeat(logits, 8, axis=0), np.repeat(labels, 8)
        apart += choose_calibration(*copies).method == "vector"
        together += choose_calibration(*copies, groups).method == "vector"
    assert apart >= 15
    assert together <= 5


@pytest.mark.parametrize("skewed", [True, False])
def test_the_choice_is_the_same_every_time(skewed: bool) -> None:
    rows = drawn(300, 5, skewed=skewed)
    assert choose_calibration(*rows) == choose_calibration(*rows)
