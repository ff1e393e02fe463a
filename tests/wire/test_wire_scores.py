"""The table of scores: higher is surer, one input scores as it does among others, and errors are ranked by area."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import entropy as shannon

from outrider_wire.calibration import softmax
from outrider_wire.scores import SCORE_NAMES, SCORES, ScoreName, area_under_risk_coverage, score_of, score_of_one

LOGITS = np.array([[4.0, 0.0, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 0.0]])
PROBABILITIES = softmax(LOGITS)


def test_every_name_but_the_learned_one_is_in_the_table() -> None:
    assert set(SCORE_NAMES) - set(SCORES) == {"deferral"}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_falls_as_the_model_gets_less_sure(name: str) -> None:
    found = SCORES[name](LOGITS, PROBABILITIES)
    assert found[0] > found[1] > found[2]


def test_the_scores_are_what_their_names_say() -> None:
    p = PROBABILITIES
    assert SCORES["max_probability"](LOGITS, p) == pytest.approx(p.max(1))
    assert SCORES["margin"](LOGITS, p)[1] == pytest.approx(p[1, 0] - p[1, 1])
    assert SCORES["entropy"](LOGITS, p) == pytest.approx(1 - shannon(p, axis=1) / np.log(3))
    assert SCORES["energy"](LOGITS, p) == pytest.approx(logsumexp(LOGITS, axis=1))


@pytest.mark.parametrize("name", SCORES)
def test_one_input_scores_as_it_does_among_others(name: str) -> None:
    together = SCORES[name](LOGITS, PROBABILITIES)
    alone = [float(SCORES[name](row, p)) for row, p in zip(LOGITS, PROBABILITIES, strict=True)]
    assert list(together) == pytest.approx(alone)


@pytest.mark.parametrize("name", SCORE_NAMES)
def test_what_is_no_number_scores_none(name: str) -> None:
    broken = PROBABILITIES.copy()
    broken[1, 1] = np.nan
    found = score_of(name, LOGITS, broken, np.ones(3))
    assert list(np.isnan(found)) == [False, True, False]


def test_a_model_without_the_learned_score_has_none() -> None:
    assert np.isnan(score_of("deferral", LOGITS, PROBABILITIES, None)).all()


def test_the_area_of_a_perfect_ranking_is_least_and_of_a_reversed_one_most() -> None:
    right = np.arange(100) < 80
    perfect, reverse = (area_under_risk_coverage(scores, right) for scores in (-np.arange(100), np.arange(100)))
    assert perfect == pytest.approx(np.mean([max(0, k - 80) / k for k in range(1, 101)]))
    assert perfect < area_under_risk_coverage(np.zeros(100), right) < reverse


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_the_order_of_equal_rows_changes_no_area(rows: list[tuple[float, bool]], random: object) -> None:
    shuffled = sorted(rows, key=lambda _: random.random())
    one, other = (area_under_risk_coverage([s for s, _ in each], [r for _, r in each]) for each in (rows, shuffled))
    assert one == pytest.approx(other)


def test_no_rows_have_no_area_and_scores_that_are_no_numbers_come_last() -> None:
    assert area_under_risk_coverage([], []) == 0.0
    assert area_under_risk_coverage([np.nan, 0.1], [False, True]) == pytest.approx(0.25)


@pytest.mark.parametrize("name", list(SCORES))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_input_without_rows_scores_as_its_row_does_and_never_on_what_is_no_number(
    name: ScoreName, bad: float
) -> None:
    logits = np.asarray([2.0, -1.0, 0.5])
    good = softmax(logits)
    assert score_of(name, logits, good, None) == score_of(name, logits[None], good[None], None)[0]
    damaged = good.copy()
    damaged[1] = bad
    with np.errstate(invalid="ignore"):
        assert np.isnan(score_of(name, logits, damaged, None))


@given(
    st.sampled_from(SCORE_NAMES),
    st.lists(st.floats(width=64) | st.sampled_from([0.0, -0.0, 0.5, 1.0]), min_size=2, max_size=12),
)
def test_one_input_scores_to_the_last_bit_as_its_row_does(name: ScoreName, shares: list[float]) -> None:
    p = np.array(shares)
    with np.errstate(all="ignore"):  # shares that no model gives
        row, one = score_of(name, p[None], p[None], np.ones(1)), score_of_one(name, p, p, 1.0)
    assert np.array_equal(row, [one], equal_nan=True)
