"""Certifying a table of rows: the promise by simulation, controls that break it, and every input that must be refused."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from outrider_export.promises import Promise
from outrider_export.rows import RowRole, ScoredRows, certify_rows
from outrider_export.ruling import interval
from outrider_wire.certificate import fixed_sequence, reused_delta, thresholds_at
from outrider_wire.errors import RuleRefusalError
from outrider_wire.scores import area_under_risk_coverage

RISK, DELTA, DRAWS = 0.05, 0.1, 400
PROMISE = Promise(risk=RISK, delta=DELTA)
ALLOWED = DELTA + 2 * (DELTA * (1 - DELTA) / DRAWS) ** 0.5
FACTOR, POWER = 0.3, 3.0
"""The row at rank u is wrong with probability FACTOR · u^POWER."""


def drawn(n: int, seed: int, **columns: object) -> ScoredRows:
    rng = np.random.default_rng(seed)
    ranks = rng.random(n)
    return ScoredRows(scores=1 - ranks, right=rng.random(n) >= FACTOR * ranks**POWER, **columns)  # type: ignore[arg-type]  # any column


def true_risk(threshold: float) -> float:
    """Of what scores at least that: the mean of FACTOR · u^POWER up to u = 1 − threshold."""
    return float(FACTOR * (1 - threshold) ** POWER / (POWER + 1))


def test_the_promise_is_kept_for_a_table_of_rows() -> None:
    found = [certify_rows(drawn(600, seed), PROMISE).threshold for seed in range(DRAWS)]
    broken = sum(threshold is not None and true_risk(threshold) > RISK for threshold in found)
    assert broken / DRAWS <= ALLOWED
    assert sum(threshold is None for threshold in found) < 0.1 * DRAWS  # a rule that certifies nothing proves nothing


def useless_scores(rng: np.random.Generator, n: int, kinds: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows whose errors no score knows of, at a risk a little above r*, and ``kinds`` scores."""
    return rng.random((kinds, n)), rng.random(n) >= 0.055


def test_choosing_the_score_on_the_rows_that_certify_breaks_it() -> None:
    """The negative control: score and thresholds chosen on the certification rows themselves, of 60 scores that are all noise."""
    rng, broken = np.random.default_rng(1), 0
    for _ in range(DRAWS):
        scores, right = useless_scores(rng, 500, kinds=60)
        best = min(scores, key=lambda each: area_under_risk_coverage(each, right))
        broken += fixed_sequence(best, right, thresholds_at(best), RISK, DELTA).threshold is not None
    assert broken / DRAWS > 2 * ALLOWED


def test_choosing_it_on_other_rows_keeps_it() -> None:
    rng, broken = np.random.default_rng(2), 0
    for _ in range(DRAWS):
        tuning, right = useless_scores(rng, 500, kinds=60)
        best = int(np.argmin([area_under_risk_coverage(each, right) for each in tuning]))
        scores, right = useless_scores(rng, 500, kinds=60)
        broken += fixed_sequence(scores[best], right, thresholds_at(tuning[best]), RISK, DELTA).threshold is not None
    assert broken / DRAWS <= ALLOWED


def test_certifying_on_the_same_rows_until_it_works_breaks_it_and_paying_for_reuse_keeps_it() -> None:
    """A model that is refused is replaced by another as bad, on the same rows: eight tries at δ, or the k-th at δ·6/(π²k²)."""
    rng, broken = np.random.default_rng(3), {"at δ": 0, "paying": 0}
    for _ in range(DRAWS):
        tries = [
            fixed_sequence(rng.random(300), rng.random(300) >= 0.051, [0.0], RISK, DELTA, coverages=[1.0])
            for _ in range(8)
        ]
        found = [each.tested[0].p_value for each in tries]
        broken["at δ"] += any(p <= DELTA for p in found)
        broken["paying"] += any(p <= reused_delta(DELTA, k) for k, p in enumerate(found, 1))
    assert broken["at δ"] / DRAWS > 2 * ALLOWED
    assert broken["paying"] / DRAWS <= ALLOWED


def refusal(rows: ScoredRows, **settings: float) -> RuleRefusalError:
    with pytest.raises(RuleRefusalError) as raised:
        certify_rows(rows, PROMISE, **settings)  # type: ignore[arg-type]  # any setting
    assert raised.value.fix
    return raised.value


ROLES: list[RowRole] = ["tuning", "certification"] * 100
SOUND = drawn(200, 0)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (replace(SOUND, scores=np.where(np.arange(200) == 7, np.nan, SOUND.scores)), "scores_not_numbers"),
        (replace(SOUND, scores=np.full(200, 0.9)), "scores_constant"),
        (replace(SOUND, right=np.zeros(200, np.bool_)), "all_wrong"),
        (replace(SOUND, groups=[str(row // 2) for row in range(200)], roles=ROLES), "roles_overlap"),
        (replace(SOUND, contents=[str(row // 2) for row in range(200)], roles=ROLES), "roles_overlap"),
        (
            replace(SOUND, contents=[str(row // 2) for row in range(200)], groups=[*map(str, range(200))]),
            "copies_counted",
        ),
        (replace(SOUND, times=np.arange(200) * 1.5), "frames_ungrouped"),
        (replace(SOUND, times=np.where(np.arange(200) == 7, np.nan, np.arange(200) * 60.0)), "times_not_numbers"),
        (replace(SOUND, roles=["tuning"] * 200), "no_rows"),
        (SOUND.take([]), "no_rows"),
    ],
    ids=[
        "a score that is NaN",
        "constant scores",
        "every answer wrong",
        "a group in two roles",
        "a copy in two roles",
        "a copy in two groups",
        "frames without a group",
        "a time that is NaN",
        "no certification rows",
        "no rows",
    ],
)
def test_rows_that_carry_no_certificate_are_refused_with_the_way_out(rows: ScoredRows, reason: str) -> None:
    assert refusal(rows).reason == reason


def test_a_group_another_role_has_seen_is_refused_too() -> None:
    roles: list[RowRole] = ["other", "certification", *["tuning"] * 198]
    assert "under two roles" in refusal(replace(SOUND, groups=["a", "a", *map(str, range(198))], roles=roles)).what


def test_frames_with_a_group_and_frames_far_apart_pass() -> None:
    certify_rows(replace(SOUND, times=np.arange(200) * 1.5, groups=[str(row // 4) for row in range(200)]), PROMISE)
    certify_rows(replace(SOUND, times=np.arange(200) * 1.5), PROMISE, min_gap_s=1.0)
    certify_rows(replace(SOUND, times=np.arange(200) * 6.0), PROMISE)


def test_too_few_rows_name_how_many_are_needed() -> None:
    roles: list[RowRole] = ["certification"] * 40 + ["tuning"] * 160
    found = certify_rows(replace(SOUND, roles=roles), Promise(risk=0.05, delta=0.05))
    assert (found.valid, found.reason, found.threshold) == (False, "too_few_rows", None)
    assert found.sentences[0].startswith("nothing can be certified at r* = 0.05 with 40 items: 59 are needed")


def test_no_error_at_all_is_certified_with_a_warning() -> None:
    found = certify_rows(replace(SOUND, right=np.ones(200, np.bool_)), PROMISE)
    assert found.valid
    assert "not one of" in found.warnings[0]


def test_rows_that_are_never_kept_do_not_set_thresholds() -> None:
    rows = drawn(900, 4)
    found = certify_rows(replace(rows, scores=np.where(np.arange(900) % 5 == 0, -np.inf, rows.scores)), PROMISE)
    assert found.valid
    assert found.threshold is not None
    assert np.isfinite(found.threshold)
    assert found.coverage <= 0.8


def test_strata_have_thresholds_of_their_own_and_a_hopeless_one_is_left_out() -> None:
    rows = drawn(2_000, 5)
    names = np.where(np.arange(2_000) % 2, "good", "bad").tolist()
    right = rows.right & ((np.arange(2_000) % 2 == 1) | (np.arange(2_000) % 4 == 0))
    found = certify_rows(replace(rows, strata=names, right=right), PROMISE)
    assert [(each.name, each.threshold is None) for each in found.strata] == [("good", False)]
    assert {each.name: each.kept > 0 for each in found.kept if each.kind == "stratum"} == {"good": True, "bad": False}


def test_a_class_that_the_certificate_hides_is_shown_first() -> None:
    rows = drawn(3_000, 6)
    classes = np.where(np.arange(3_000) % 20 == 0, "rare", "common")
    right = rows.right & ~((classes == "rare") & (np.arange(3_000) % 40 == 0))
    found = certify_rows(replace(rows, classes=classes.tolist(), right=right), PROMISE)
    assert found.valid
    worst = found.kept[0]
    assert (worst.kind, worst.name) == ("class", "rare")
    assert worst.high < 0.9


def test_whole_groups_certify_by_the_betting_test() -> None:
    groups = [f"clip-{row // 4}" for row in range(4_000)]
    found = certify_rows(replace(drawn(4_000, 8), groups=groups), PROMISE)
    assert (found.method, found.rows_a_group, found.valid) == ("fixed-sequence-groups", 4, True)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(30, 36, 0.6719, 0.9363), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0)]
)
def test_the_interval_is_clopper_and_pearson_s(right: int, n: int, low: float, high: float) -> None:
    from scipy.stats import beta

    assert interval(right, n) == pytest.approx((low, high), abs=1e-4)
    if 0 < right < n:
        assert interval(right, n) == pytest.approx(
            (beta.ppf(0.025, right, n - right + 1), beta.ppf(0.975, right + 1, n - right)), abs=1e-6
        )


def test_nothing_is_known_of_a_class_that_is_not_kept() -> None:
    assert interval(0, 0) == (0.0, 1.0)
