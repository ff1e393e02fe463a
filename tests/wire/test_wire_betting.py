"""Betting on gains: a capital that a true claim about the mean cannot make large too often."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.betting import BOLD, SPREAD, capital, group_sums, p_value


def test_the_capital_is_the_product_of_the_bets() -> None:
    gains, worst = [0.05, 0.05, -0.95, 0.05], 0.95
    assert capital(gains, worst) == pytest.approx(math.prod(1 + BOLD[0] * gain / worst for gain in gains))


def test_a_capital_shared_out_is_the_mean_of_its_parts() -> None:
    gains = [0.5, -0.2, 0.1]
    assert capital(gains, 1.0, SPREAD) == pytest.approx(np.mean([capital(gains, 1.0, [share]) for share in SPREAD]))


def test_nothing_to_bet_on_leaves_the_capital_at_one() -> None:
    assert (capital([], 1.0), p_value([], 1.0)) == (1.0, 1.0)


def test_a_capital_too_large_for_a_number_is_infinite_and_no_error() -> None:
    assert capital(np.full(5000, 1.0), 1.0) == math.inf
    assert p_value(np.full(5000, 1.0), 1.0) == 0.0


@pytest.mark.parametrize("gains", [[-1.1], [0.5, -2.0], [float("nan")]])
def test_a_gain_below_the_worst_is_refused(gains: list[float]) -> None:
    with pytest.raises(ValueError, match="at least -1"):
        capital(gains, 1.0)


@given(st.lists(st.floats(-1, 1), max_size=50))
def test_a_p_value_is_a_probability(gains: list[float]) -> None:
    assert 0.0 <= p_value(gains, 1.0) <= 1.0


@pytest.mark.parametrize("shares", [BOLD, SPREAD])
def test_a_fair_game_makes_nobody_rich_too_often(shares: tuple[float, ...]) -> None:
    """Gains of mean zero, lopsided as errors are: P(capital ≥ 20) ≤ 5 %."""
    rng = np.random.default_rng(0)
    rich = [capital(0.05 - (rng.random(400) < 0.05), 0.95, shares) >= 20 for _ in range(4000)]
    assert np.mean(rich) <= 0.05


def test_sums_weight_every_row_alike() -> None:
    assert list(group_sums([1.0, 1.0, -2.0], np.array([0, 0, 1]), 4)) == [0.5, -0.5]
