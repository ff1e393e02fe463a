"""One rule, asked of one input or of many, gives the same answer; what is not a number is never accepted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.acceptance import accepted, judge, scores, supported_scores
from outrider_wire.manifest import Acceptance

RULE = Acceptance(threshold=0.8, support_threshold=3.0)
SURE, UNSURE = [0.9, 0.1], [0.6, 0.4]


@pytest.mark.parametrize(
    ("rule", "probabilities", "support", "why"),
    [
        (RULE, SURE, 1.0, "accepted"),
        (RULE, [0.8, 0.2], 3.0, "accepted"),
        (RULE, UNSURE, 1.0, "low_confidence"),
        (RULE, SURE, 3.1, "unsupported"),
        (RULE, SURE, None, "unsupported"),
        (RULE, SURE, math.nan, "unsupported"),
        (RULE, SURE, math.inf, "unsupported"),
        (RULE, SURE, -math.inf, "unsupported"),
        (RULE, [math.nan, 0.9], 1.0, "low_confidence"),
        (RULE, [], 1.0, "low_confidence"),
        (Acceptance(threshold=0.8), SURE, None, "accepted"),
        (Acceptance(threshold=0.8), SURE, 1e9, "accepted"),
        (Acceptance(threshold=0.8), SURE, math.inf, "unsupported"),
        (Acceptance(support_threshold=3.0), SURE, 1.0, "no_certificate"),
        (Acceptance(), SURE, None, "no_certificate"),
        (Acceptance(threshold=0.0), [math.nan, math.nan], None, "low_confidence"),
    ],
)
def test_the_verdict_and_its_reason(
    rule: Acceptance, probabilities: list[float], support: float | None, why: str
) -> None:
    verdict = judge(rule, probabilities, support)
    assert (verdict.why, verdict.accepted) == (why, why == "accepted")


def test_the_score_is_the_largest_probability() -> None:
    assert judge(RULE, UNSURE, 1.0).score == 0.6
    assert list(scores([SURE, UNSURE])) == [0.9, 0.6]


def test_a_score_that_is_no_number_is_shown_as_zero() -> None:
    assert judge(RULE, [math.nan, 0.5], 1.0).score == 0.0


NUMBER = st.one_of(st.floats(0, 1), st.sampled_from([math.nan, math.inf, 0.8]))
DISTANCE = st.one_of(st.floats(0, 6), st.sampled_from([math.nan, math.inf, -math.inf, 3.0]))
RULES = st.builds(
    Acceptance, threshold=st.sampled_from([None, 0.0, 0.5, 0.8]), support_threshold=st.sampled_from([None, 3.0])
)


@given(
    RULES,
    st.lists(st.tuples(st.lists(NUMBER, min_size=3, max_size=3), DISTANCE), min_size=1, max_size=10),
    st.booleans(),
)
def test_rows_and_single_inputs_are_judged_alike(
    rule: Acceptance, rows: list[tuple[list[float], float]], supported: bool
) -> None:
    distances = np.array([distance for _, distance in rows]) if supported else None
    many = accepted(rule, [probabilities for probabilities, _ in rows], distances)
    one = [judge(rule, probabilities, distance if supported else None).accepted for probabilities, distance in rows]
    assert list(many) == one


def test_the_scores_to_certify_are_minus_infinity_where_the_rule_refuses_whatever_its_threshold() -> None:
    rows = [SURE, SURE, SURE, [math.nan, 0.5]]
    assert list(supported_scores(RULE, rows, [1.0, 9.0, math.nan, 1.0])) == [0.9, -math.inf, -math.inf, -math.inf]
    assert list(supported_scores(RULE, rows[:1], None)) == [-math.inf]


def test_a_threshold_of_minus_infinity_accepts_no_refused_row() -> None:
    rule = Acceptance(threshold=-math.inf, support_threshold=3.0)
    assert list(accepted(rule, [SURE, SURE], [1.0, 9.0])) == [True, False]
