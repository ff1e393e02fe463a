"""The arithmetic of a certificate: checked against SciPy, against published figures, and at its edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from outrider_wire.certificate import (
    DEFAULT_COVERAGES,
    best_start,
    binomial_tail,
    first_tested,
    fixed_sequence,
    items_needed,
    reused_delta,
    starting_errors,
    thresholds_at,
    upper_bound,
)
from outrider_wire.errors import RuleRefusalError
from outrider_wire.groups import one_per_group


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_scipys(n: int, share: float, risk: float) -> None:
    errors = int(share * n)
    assert binomial_tail(errors, n, risk) == pytest.approx(binom.cdf(errors, n, risk), rel=1e-8, abs=1e-300)


@given(st.integers(1, 3000), st.floats(0, 0.99), st.sampled_from([0.01, 0.05, 0.1]))
def test_the_upper_bound_is_clopper_pearsons(n: int, share: float, delta: float) -> None:
    errors = int(share * n)
    assert upper_bound(errors, n, delta) == pytest.approx(beta.ppf(1 - delta, errors + 1, n - errors), rel=1e-8)


@pytest.mark.parametrize(("risk", "expected"), [(0.05, 59), (0.02, 149), (0.01, 299)])
def test_error_free_items_needed_are_the_published_ones(risk: float, expected: int) -> None:
    assert items_needed(risk, 0.05) == expected


def test_items_needed_grow_with_the_errors_among_them() -> None:
    assert [items_needed(0.05, 0.05, errors) for errors in range(6)] == [59, 93, 124, 153, 181, 208]


@given(st.integers(0, 20), st.floats(0.01, 0.3), st.floats(0.01, 0.2))
def test_items_needed_is_the_fewest_that_pass(errors: int, risk: float, delta: float) -> None:
    needed = items_needed(risk, delta, errors)
    assert binomial_tail(errors, needed, risk) <= delta < binomial_tail(errors, needed - 1, risk)


def test_the_tail_at_its_edges() -> None:
    assert (binomial_tail(-1, 10, 0.5), binomial_tail(10, 10, 0.5), binomial_tail(0, 0, 0.5)) == (0.0, 1.0, 1.0)
    assert (binomial_tail(3, 10, 0.0), binomial_tail(3, 10, 1.0)) == (1.0, 0.0)
    assert (upper_bound(0, 0, 0.05), upper_bound(5, 5, 0.05)) == (1.0, 1.0)


def test_a_threshold_is_the_score_that_the_share_reaches() -> None:
    scores = np.linspace(0.01, 1.0, 100)
    assert thresholds_at(scores, [0.3, 0.5, 1.0]) == pytest.approx([0.71, 0.51, 0.01])


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, -np.inf, np.nan]), min_size=1, max_size=60))
def test_thresholds_never_rise_and_are_scores_that_exist(scores: list[float]) -> None:
    if not np.isfinite(scores).any():
        with pytest.raises(RuleRefusalError, match="bring tuning rows"):
            thresholds_at(scores)
        return
    thresholds = thresholds_at(scores)
    assert thresholds == sorted(thresholds, reverse=True)
    assert set(thresholds) <= set(scores)
    reached = [float(np.mean(np.nan_to_num(scores, nan=-np.inf) >= t)) for t in thresholds]
    most = float(np.isfinite(scores).mean())
    assert all(r >= min(c, most) - 1e-9 for r, c in zip(reached, DEFAULT_COVERAGES, strict=True))


@pytest.mark.parametrize(
    ("n", "errors", "coverage"),
    [(5000, 5, 0.05), (2000, 5, 0.15), (700, 5, 0.30), (400, 2, 0.35), (200, 0, 0.30), (100, 0, 0.60), (59, 0, 1.00)],
)
def test_the_first_step_is_as_large_as_the_rows_allow(n: int, errors: int, coverage: float) -> None:
    assert starting_errors(n, 0.05, 0.05) == errors
    assert DEFAULT_COVERAGES[first_tested(DEFAULT_COVERAGES, n, 0.05, 0.05)] == coverage


def test_too_few_rows_test_nothing_and_certify_nothing() -> None:
    outcome = fixed_sequence(np.ones(58), np.ones(58, bool), [0.5] * 20, 0.05, 0.05)
    assert (outcome.threshold, outcome.tested, outcome.coverage, outcome.risk_bound) == (None, [], 0.0, 1.0)


def ladder(wrong: set[int], n: int = 1000) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Scores 1.0 downwards, wrong at those ranks, and the thresholds of the default coverages."""
    scores = np.linspace(1.0, 0.001, n)
    correct = np.array([rank not in wrong for rank in range(n)])
    return scores, correct, thresholds_at(scores)


def test_without_an_error_everything_certifies() -> None:
    outcome = fixed_sequence(*ladder(set()), 0.05, 0.05)
    assert (outcome.coverage, outcome.accepted, outcome.errors) == (1.0, 1000, 0)
    assert [step.coverage for step in outcome.tested] == [each for each in DEFAULT_COVERAGES if each >= 0.25]


def test_the_last_step_before_the_first_failure_is_kept() -> None:
    outcome = fixed_sequence(*ladder(set(range(500, 1000))), 0.05, 0.05)
    assert [step.passed for step in outcome.tested] == [True] * 6 + [False]
    assert outcome.coverage == pytest.approx(0.5)
    assert outcome.risk_bound <= 0.05


def test_a_later_success_does_not_count_after_a_failure() -> None:
    """40 errors among the first 300, none after: at full coverage the risk is 4 % only."""
    outcome = fixed_sequence(*ladder(set(range(0, 280, 7))), 0.06, 0.05)
    assert outcome.threshold is None
    assert len(outcome.tested) == 1


def test_tuning_rows_choose_where_the_sequence_begins() -> None:
    """Only the surest tenth is safe: a sequence that began at 30 % would certify nothing."""
    scores, correct, thresholds = ladder({rank for rank in range(100, 1000) if rank % 4 == 0})
    start = best_start(scores, correct, thresholds, 0.05)
    assert start is not None and DEFAULT_COVERAGES[start] == 0.1
    fresh = np.concatenate([scores] * 3), np.concatenate([correct] * 3)
    assert (
        fixed_sequence(*fresh, thresholds[start:], 0.05, 0.05, coverages=DEFAULT_COVERAGES[start:]).threshold
        == thresholds[start]
    )
    assert fixed_sequence(*fresh, thresholds[5:], 0.05, 0.05, coverages=DEFAULT_COVERAGES[5:]).threshold is None


def test_rows_that_are_no_evidence_at_any_coverage_begin_nowhere() -> None:
    scores, correct, thresholds = ladder(set(range(0, 1000, 10)))
    assert best_start(scores, correct, thresholds, 0.05) is None


def test_where_rows_are_without_an_error_the_sequence_begins_late() -> None:
    scores, correct, thresholds = ladder(set())
    start = best_start(scores, correct, thresholds, 0.05)
    assert start is not None and DEFAULT_COVERAGES[start] >= 0.9


def test_the_bound_and_the_test_agree() -> None:
    for wrong in range(0, 60, 3):
        outcome = fixed_sequence(*ladder(set(range(0, wrong * 15, 15))), 0.05, 0.05)
        for step in outcome.tested:
            assert step.passed == (upper_bound(step.errors, step.accepted, 0.05) <= 0.05)


def test_a_first_step_that_too_few_rows_reach_fails_and_is_not_skipped() -> None:
    """The thresholds came from other tuning scores: hardly a certification row reaches the first one."""
    outcome = fixed_sequence(np.full(1000, 0.5), np.ones(1000, bool), [0.9] * 12 + [0.4] * 8, 0.05, 0.05)
    assert outcome.threshold is None
    assert (len(outcome.tested), outcome.tested[0].accepted, outcome.tested[0].p_value) == (1, 0, 1.0)


def test_rows_refused_by_support_count_in_the_coverage_only() -> None:
    scores, correct, thresholds = ladder(set())
    scores[500:], correct[500:] = [-np.inf, np.nan] * 250, False
    outcome = fixed_sequence(scores, correct, thresholds, 0.05, 0.05)
    assert (outcome.n, outcome.accepted, outcome.errors, outcome.coverage) == (1000, 500, 0, 0.5)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.9, 0.8], "pass those they were taken at"),
        ([*([0.5] * 19), 0.6], "must not rise"),
        ([*([0.5] * 19), float("nan")], "not a finite number"),
        ([*([0.5] * 19), float("-inf")], "not a finite number"),
    ],
)
def test_thresholds_that_make_no_sequence_are_refused(thresholds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fixed_sequence(np.ones(100), np.ones(100, bool), thresholds, 0.05, 0.05)


def test_all_uses_together_spend_delta() -> None:
    assert sum(reused_delta(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    assert reused_delta(0.05, 1) < 0.05
    with pytest.raises(ValueError, match="counted from 1"):
        reused_delta(0.05, 0)


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.text(max_size=5))
def test_one_row_a_group_is_drawn(groups: list[str], key: str) -> None:
    rows = one_per_group(groups, key)
    assert sorted(groups[row] for row in rows) == sorted(set(groups))
    assert list(rows) == sorted(rows)
    assert list(one_per_group(groups, key)) == list(rows)


def test_the_draw_within_groups_is_even() -> None:
    groups = [f"g{number // 4}" for number in range(8000)]
    place = one_per_group(groups, "key") % 4
    assert np.bincount(place, minlength=4) == pytest.approx([500] * 4, abs=80)
