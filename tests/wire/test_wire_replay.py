"""Replays by simulation: what runs elsewhere is promised no more than its own rows allow; and rules that promise too much.

C is the certified model, E the other one. The true risk of either is known: a row is wrong with a probability that does not depend on
its score, so that every threshold has the same risk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from outrider_wire.acceptance import Signals
from outrider_wire.certificate import fixed_sequence, reused_delta
from outrider_wire.errors import BundleMismatchError
from outrider_wire.manifest import Acceptance, Certificate, StratumRule
from outrider_wire.replay import FIRST_REPLAY, CertifiedRows, Ladder, Replayed, replay

RISK, DELTA, N, DRAWS = 0.05, 0.05, 700, 250
COVERAGES = [share / 20 for share in range(12, 21)]
THRESHOLDS = [1.0 - each / 2 for each in COVERAGES]
"""Of the largest of two probabilities, even over [½, 1]."""
LADDER = Ladder(thresholds=THRESHOLDS, coverages=COVERAGES, rows=300)


def certificate(rows: CertifiedRows) -> Certificate:
    """Of these rows, whatever they allow."""
    n, wrong = len(rows.labels), int((rows.kept & (rows.answers != rows.labels)).sum())
    return Certificate(
        method="fixed-sequence",
        risk=RISK,
        delta=DELTA,
        n=n,
        groups=len(np.unique(rows.groups)),
        accepted=int(rows.kept.sum()),
        errors=wrong,
        coverage=float(rows.kept.mean()),
        risk_bound=RISK,
        label_source="ground_truth",
        data_digest="0" * 64,
        provider="CPUExecutionProvider",
        precision="int8",
        claims={},
    )


def signals(sure: NDArray[np.float64], answers: NDArray[np.int64]) -> Signals:
    """Of two labels: the answer with probability ½ + sure / 2."""
    probabilities = np.empty((len(sure), 2))
    rows = np.arange(len(sure))
    probabilities[rows, answers] = 0.5 + sure / 2
    probabilities[rows, 1 - answers] = 0.5 - sure / 2
    return Signals(np.log(np.clip(probabilities, 1e-12, 1.0)), probabilities)


@dataclass(frozen=True)
class Draw:
    """Certification rows on which C has its certificate, if any."""

    rows: CertifiedRows
    rule: Acceptance
    sure: NDArray[np.float64]


Risk = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def drawn(rng: np.random.Generator, risk: float | Risk, n: int = N) -> Draw | None:
    """C's certificate on a fresh draw, of that risk everywhere or by score; None: it gets none."""
    sure, labels = rng.random(n), rng.integers(0, 2, n)
    answers = np.where(rng.random(n) < (risk(sure) if callable(risk) else risk), 1 - labels, labels)
    found = fixed_sequence(0.5 + sure / 2, answers == labels, THRESHOLDS, RISK, DELTA, coverages=COVERAGES)
    if found.threshold is None:
        return None
    rows = CertifiedRows(
        labels=labels,
        groups=np.arange(n),
        strata=(),
        answers=answers,
        kept=0.5 + sure / 2 >= found.threshold,
        ladders={"": LADDER},
    )
    return Draw(rows, Acceptance(threshold=found.threshold), sure)


def worsened(draw: Draw, rng: np.random.Generator, share: float) -> Signals:
    """An E that answers the other label on that share of all inputs, whatever C says of them."""
    flipped = rng.random(len(draw.sure)) < share
    return signals(draw.sure, np.where(flipped, 1 - draw.rows.answers, draw.rows.answers))


def replayed(draw: Draw, said: Signals, k: int = FIRST_REPLAY) -> Replayed:
    return replay(draw.rule, certificate(draw.rows), draw.rows, said, k=k)


Claims = Callable[[Draw, Signals, int], bool]


def by_replay(draw: Draw, said: Signals, k: int) -> bool:
    return replayed(draw, said, k).rule is not None


def by_agreement(draw: Draw, said: Signals, k: int) -> bool:
    """A rule that people use, and that promises too much: 95 % of the answers are the same."""
    return float((said.probabilities.argmax(1) == draw.rows.answers).mean()) >= 0.95


def unpaid(draw: Draw, said: Signals, k: int) -> bool:
    """Every look at full δ."""
    right = said.probabilities.argmax(1) == draw.rows.labels
    found = fixed_sequence(said.probabilities.max(1), right, THRESHOLDS, RISK, DELTA, coverages=COVERAGES)
    return found.threshold is not None


def false_claims(claims: Claims, *, risk: float, share: float, looks: int = 1, draws: int = DRAWS) -> float:
    """Share of draws in which one of ``looks`` engines, all of them too often wrong, is claimed for."""
    rng, wrong = np.random.default_rng(5), 0
    assert risk * (1 - share) + (1 - risk) * share > RISK, "E should break the promise"
    for _ in range(draws):
        draw = drawn(rng, risk)
        if draw is not None:
            wrong += any(claims(draw, worsened(draw, rng, share), FIRST_REPLAY + look) for look in range(looks))
    return wrong / draws


def slack(level: float, draws: int = DRAWS) -> float:
    """Three standard errors."""
    return 3 * float(np.sqrt(level * (1 - level) / draws))


@pytest.mark.parametrize(
    ("risk", "share"),
    [(0.02, 0.035), (0.02, 0.06), (0.03, 0.022), (0.0499, 0.0005), (0.0495, 0.002)],
    ids=["barely worse", "worse", "barely", "mostly identical, C at its edge", "often identical, C near its edge"],
)
def test_an_engine_that_breaks_the_promise_is_claimed_for_with_probability_delta_at_most(
    risk: float, share: float
) -> None:
    assert false_claims(by_replay, risk=risk, share=share) <= DELTA + slack(DELTA)


def test_agreement_with_the_certified_answers_is_no_reason_to_claim() -> None:
    assert false_claims(by_agreement, risk=0.02, share=0.035) > 0.5


def test_many_engines_tried_one_after_another_are_paid_for() -> None:
    looks, draws = 6, 120
    paid = sum(reused_delta(DELTA, FIRST_REPLAY + look) for look in range(looks))
    assert paid < 0.39 * DELTA
    assert false_claims(by_replay, risk=0.02, share=0.0325, looks=looks, draws=draws) <= paid + slack(paid, draws)
    assert false_claims(unpaid, risk=0.02, share=0.0325, looks=looks, draws=draws) > DELTA + slack(DELTA, draws)


def good_draw(seed: int = 1, risk: float = 0.015) -> Draw:
    draw = drawn(np.random.default_rng(seed), risk)
    assert draw is not None
    return draw


def test_an_identical_engine_keeps_the_whole_certificate_and_says_how_unlike_it_may_be() -> None:
    draw = good_draw()
    noise = np.random.default_rng(2).uniform(-1e-9, 1e-9, N)
    found = replayed(draw, signals(draw.sure + noise, draw.rows.answers))
    assert (found.identical, found.rule, found.delta, found.why) == (True, draw.rule, DELTA, "")
    assert (1 - found.unlike) ** N == pytest.approx(reused_delta(DELTA, 2))


def test_another_answer_to_what_escalates_costs_nothing() -> None:
    draw = next(
        each for seed in range(60) if (each := drawn(np.random.default_rng(seed), 0.035)) and not each.rows.kept.all()
    )
    answers = np.where(draw.rows.kept, draw.rows.answers, 1 - draw.rows.answers)
    assert replayed(draw, signals(draw.sure, answers)).identical


def test_a_good_engine_that_differs_in_a_row_claims_at_the_paid_level_and_never_keeps_more() -> None:
    draw = good_draw()
    answers = draw.rows.answers.copy()
    place = int(np.argmax(draw.sure))
    answers[place] = 1 - answers[place]
    found = replayed(draw, signals(draw.sure, answers), k=3)
    assert (found.identical, found.differ, found.delta) == (False, 1, reused_delta(DELTA, 3))
    assert found.rule is not None
    assert found.rule.threshold is not None
    assert draw.rule.threshold is not None
    assert found.rule.threshold >= draw.rule.threshold
    assert found.rule.threshold in THRESHOLDS


def test_where_the_paid_level_is_not_reached_a_stricter_threshold_is() -> None:
    strict = 0
    for seed in range(40):
        draw = drawn(np.random.default_rng(seed), lambda sure: 0.005 + 0.12 * (1 - sure) ** 2)
        if draw is None:
            continue
        said = signals(draw.sure, np.where(draw.sure == draw.sure.max(), 1 - draw.rows.answers, draw.rows.answers))
        found = replayed(draw, said)
        if found.rule is not None and found.rule != draw.rule:
            strict += 1
            assert found.accepted < int(draw.rows.kept.sum())
            assert "keeps" in found.why
    assert strict > 3


def test_an_engine_that_is_wrong_everywhere_claims_nothing() -> None:
    draw = good_draw()
    found = replayed(draw, signals(draw.sure, 1 - draw.rows.answers))
    assert found.rule is None
    assert "does not pass" in found.why


def test_a_stratum_that_fails_escalates_and_the_others_stay() -> None:
    rng = np.random.default_rng(4)
    sure, labels = rng.random(2 * N), rng.integers(0, 2, 2 * N)
    strata = ["colour"] * N + ["other"] * N
    kept = 0.5 + sure / 2 >= THRESHOLDS[-1]
    rows = CertifiedRows(
        labels=labels,
        groups=np.arange(2 * N),
        strata=strata,
        answers=labels,
        kept=kept,
        ladders={"colour": LADDER, "other": LADDER},
    )
    colour = StratumRule(name="colour", part="q", any_of=["colour"], threshold=THRESHOLDS[-1])
    rule = Acceptance(threshold=THRESHOLDS[-1], strata=[colour])
    said = signals(sure, np.where(np.arange(2 * N) < N, 1 - labels, labels))
    found = replay(rule, certificate(rows), rows, said)
    assert found.rule is not None
    assert (found.rule.strata[0].threshold, found.rule.threshold) == (None, THRESHOLDS[-1])
    assert (found.accepted, found.errors) == (int(kept[N:].sum()), 0)


def test_rows_of_another_certificate_or_answers_to_too_few_are_refused() -> None:
    draw = good_draw()
    said = signals(draw.sure, draw.rows.answers)
    other = msgspec.structs.replace(certificate(draw.rows), errors=99)
    with pytest.raises(BundleMismatchError, match="certificate says"):
        replay(draw.rule, other, draw.rows, said)
    with pytest.raises(BundleMismatchError, match="answers to"):
        replay(draw.rule, certificate(draw.rows), draw.rows, signals(draw.sure[1:], draw.rows.answers[1:]))
    with pytest.raises(ValueError, match="first use"):
        replayed(draw, said, k=1)
