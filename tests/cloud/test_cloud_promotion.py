"""The promotion gate refuses what harms the system, says the figure, and lets a real gain through."""

import numpy as np
import pytest

from outrider_cloud.learning.promotion import Behaviour, Margins, Verdict, judge_candidate, judge_round

ROWS, GROUPS = 1200, 300
CLASSES = [("red", "blue", "circle")[k % 3] for k in range(ROWS)]
NAMES = [f"image-{k % GROUPS}" for k in range(ROWS)]


def behaviour(
    seed: int, *, coverage: float, kept_right: float, small_right: float = 0.8, large_right: float = 0.97
) -> Behaviour:
    rng = np.random.default_rng(seed)
    ease = rng.random(ROWS)
    accepted = ease < coverage
    right = np.where(accepted, rng.random(ROWS) < kept_right, rng.random(ROWS) < small_right)
    combined = np.where(accepted, right, rng.random(ROWS) < large_right)
    return Behaviour(accepted=accepted, right=right, combined=combined)


def verdict(before: Behaviour, after: Behaviour, *, agreement: float = 1.0, latency_ratio: float = 1.0) -> Verdict:
    return judge_candidate(
        deployed=before,
        candidate=after,
        classes=CLASSES,
        groups=NAMES,
        agreement=agreement,
        latency_ratio=latency_ratio,
        margins=Margins(),
    )


def failed(found: Verdict) -> set[str]:
    return {check.name for check in found.checks if not check.passed}


BEFORE = behaviour(1, coverage=0.45, kept_right=1.0)


def test_a_candidate_that_keeps_more_and_errs_no_more_is_promoted() -> None:
    after = Behaviour(
        accepted=BEFORE.accepted | (np.arange(ROWS) % 5 == 0),
        right=BEFORE.right | BEFORE.accepted,
        combined=BEFORE.combined,
    )
    assert verdict(BEFORE, after).promoted


def test_a_candidate_that_changes_nothing_is_refused_for_want_of_a_gain() -> None:
    found = verdict(BEFORE, BEFORE)
    assert failed(found) == {"gain"}
    assert "neither coverage nor combined accuracy gains" in found.sentence


def test_a_candidate_better_alone_and_worse_in_the_system_is_refused_with_the_figures() -> None:
    rng = np.random.default_rng(3)
    accepted = BEFORE.accepted | (rng.random(ROWS) < 0.3)
    right = np.where(BEFORE.accepted, True, rng.random(ROWS) < 0.9)
    after = Behaviour(accepted=accepted, right=right, combined=np.where(accepted, right, BEFORE.combined))
    assert right.mean() > BEFORE.right.mean()
    found = verdict(BEFORE, after)
    assert "combined_accuracy" in failed(found)
    assert f"{after.combined.mean():.1%}" in found.sentence


def test_a_falling_coverage_is_refused() -> None:
    after = Behaviour(
        accepted=BEFORE.accepted & (np.arange(ROWS) % 2 == 0), right=BEFORE.right, combined=BEFORE.combined
    )
    assert "coverage" in failed(verdict(BEFORE, after))


def test_forgetting_what_the_deployed_model_knew_is_refused() -> None:
    held = np.flatnonzero(BEFORE.accepted & BEFORE.right)
    right = BEFORE.right.copy()
    right[held[:: len(held) // 20]] = False
    found = verdict(BEFORE, Behaviour(accepted=BEFORE.accepted, right=right, combined=BEFORE.combined))
    assert "retention" in failed(found)


def test_one_class_that_pays_for_the_others_is_refused_by_name() -> None:
    circle = np.asarray(CLASSES) == "circle"
    combined = BEFORE.combined | ~circle
    combined = combined & ~(circle & (np.arange(ROWS) % 8 < 4))
    found = verdict(BEFORE, Behaviour(accepted=np.ones(ROWS, bool), right=BEFORE.right, combined=combined))
    assert "classes" in failed(found) and "circle" in found.sentence


@pytest.mark.parametrize(("agreement", "ratio", "name"), [(0.95, 1.0, "agreement"), (1.0, 2.0, "latency")])
def test_a_variant_that_differs_from_fp32_or_is_slow_is_refused(agreement: float, ratio: float, name: str) -> None:
    assert name in failed(verdict(BEFORE, BEFORE, agreement=agreement, latency_ratio=ratio))


def test_a_round_with_too_few_confident_or_too_unsure_teacher_answers_is_refused() -> None:
    few, unsure, unmeasured = judge_round(confident=42, teacher_accuracy=0.8, measured=7, margins=Margins())
    assert not few.passed and "42" in few.says and "250" in few.says
    assert not unsure.passed and "80.0%" in unsure.says
    assert not unmeasured.passed and "7" in unmeasured.says and "30" in unmeasured.says


def test_under_no_change_at_all_the_gate_calls_a_gain_no_more_often_than_its_level() -> None:
    margins = Margins()
    called = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        before, after, right_before, right_after = (rng.random(ROWS) < 0.5 for _ in range(4))
        found = judge_candidate(
            deployed=Behaviour(accepted=before, right=right_before, combined=right_before),
            candidate=Behaviour(accepted=after, right=right_after, combined=right_after),
            classes=CLASSES, groups=NAMES, agreement=1.0, latency_ratio=1.0, margins=margins,
        )  # fmt: skip
        called += "gain" not in failed(found)
    assert called / 300 <= margins.alpha + 2 * (margins.alpha * (1 - margins.alpha) / 300) ** 0.5
