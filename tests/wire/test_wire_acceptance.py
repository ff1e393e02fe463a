"""One rule, asked of one input or of many, gives the same answer; what is not a number is never accepted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.acceptance import Signals, Verdict, accepted, judge, supported_scores
from outrider_wire.manifest import Acceptance, StratumRule
from outrider_wire.scores import SCORE_NAMES


def one(rule: Acceptance, probabilities: list[float], support: float | None, stratum: str = "") -> Verdict:
    """The verdict on one input whose logits are the logarithms of its probabilities."""
    p = np.array(probabilities)
    with np.errstate(divide="ignore", invalid="ignore"):
        return judge(rule, logits=np.log(p), probabilities=p, support=support, stratum=stratum)


def rows(probabilities: list[list[float]], support: object = None, strata: list[str] | None = None) -> Signals:
    p = np.array(probabilities)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Signals(np.log(p), p, None if support is None else np.asarray(support), None, strata or ())


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
    verdict = one(rule, probabilities, support)
    assert (verdict.why, verdict.accepted) == (why, why == "accepted")


def test_the_score_is_the_largest_probability() -> None:
    assert one(RULE, UNSURE, 1.0).score == 0.6
    assert list(supported_scores(Acceptance(), rows([SURE, UNSURE]))) == [0.9, 0.6]


def test_a_score_that_is_no_number_is_shown_as_zero() -> None:
    assert one(RULE, [math.nan, 0.5], 1.0).score == 0.0


NUMBER = st.one_of(st.floats(0, 1), st.sampled_from([math.nan, math.inf, 0.8]))
DISTANCE = st.one_of(st.floats(0, 6), st.sampled_from([math.nan, math.inf, -math.inf, 3.0]))
RULES = st.builds(
    Acceptance,
    score=st.sampled_from(SCORE_NAMES),
    threshold=st.sampled_from([None, 0.0, 0.5, 0.8]),
    support_threshold=st.sampled_from([None, 3.0]),
)


@given(
    RULES,
    st.lists(st.tuples(st.lists(NUMBER, min_size=3, max_size=3), DISTANCE), min_size=1, max_size=10),
    st.booleans(),
)
def test_rows_and_single_inputs_are_judged_alike(
    rule: Acceptance, inputs: list[tuple[list[float], float]], supported: bool
) -> None:
    distances = np.array([distance for _, distance in inputs]) if supported else None
    many = accepted(rule, rows([probabilities for probabilities, _ in inputs], distances))
    alone = [one(rule, probabilities, distance if supported else None).accepted for probabilities, distance in inputs]
    assert list(many) == alone


def test_the_scores_to_certify_are_minus_infinity_where_the_rule_refuses_whatever_its_threshold() -> None:
    many = [SURE, SURE, SURE, [math.nan, 0.5]]
    found = supported_scores(RULE, rows(many, [1.0, 9.0, math.nan, 1.0]))
    assert list(found) == [0.9, -math.inf, -math.inf, -math.inf]
    assert list(supported_scores(RULE, rows(many[:1]))) == [-math.inf]


def test_a_threshold_of_minus_infinity_accepts_no_refused_row() -> None:
    rule = Acceptance(threshold=-math.inf, support_threshold=3.0)
    assert list(accepted(rule, rows([SURE, SURE], [1.0, 9.0]))) == [True, False]


STRATA = Acceptance(
    threshold=0.5,
    strata=[
        StratumRule(name="easy", part="q", any_of=["easy"], threshold=0.55),
        StratumRule(name="hard", part="q", any_of=["hard"], threshold=0.95),
        StratumRule(name="hopeless", part="q", any_of=["hopeless"]),
    ],
)


@pytest.mark.parametrize(
    ("stratum", "why", "threshold"),
    [
        ("easy", "accepted", 0.55),
        ("hard", "low_confidence", 0.95),
        ("hopeless", "no_certificate", None),
        ("other", "accepted", 0.5),
    ],
)
def test_each_stratum_is_held_against_its_own_threshold(stratum: str, why: str, threshold: float | None) -> None:
    verdict = one(STRATA, SURE, None, stratum)
    assert (verdict.why, verdict.threshold, verdict.stratum) == (why, threshold, stratum)
    assert list(accepted(STRATA, rows([SURE], None, [stratum]))) == [why == "accepted"]


def test_a_rule_whose_strata_keep_something_keeps_something() -> None:
    assert STRATA.keeps_anything
    assert Acceptance(strata=STRATA.strata).keeps_anything
    assert not Acceptance(strata=STRATA.strata[2:]).keeps_anything


def test_a_model_that_gives_no_deferral_score_is_kept_by_none() -> None:
    assert one(Acceptance(score="deferral", threshold=0.0), SURE, None).why == "low_confidence"
