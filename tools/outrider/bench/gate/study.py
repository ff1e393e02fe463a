"""Every contender of one task over its seeds: operating points, curves, foreign inputs. Trains nothing and prints nothing.

An operating point is what a certified device would do: the threshold that the certificate allows (fixed-sequence testing at the
task's r* and δ), applied to test rows. Nothing certified: everything is sent. The oracle cannot be certified: it sends what the
large model gains, and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider.bench.gate.cases import Case, make_case, passes
from outrider.bench.gate.contenders import CONTENDERS, Contender, Score, answers_right
from outrider.bench.gate.curves import (
    Curve,
    accuracy_at,
    area,
    deferral_curve,
    interval,
    mean_of,
    spent_to_match,
)
from outrider.bench.gate.rows import Floats, Measured
from outrider.bench.gate.tasks.base import GateTask
from outrider_wire.calibration import softmax
from outrider_wire.certificate import fixed_sequence, thresholds_at
from outrider_wire.scores import SCORES

GRID = np.linspace(0.0, 1.0, 101)
METRICS = ("accuracy", "calls", "certified_coverage", "area", "calls_to_match_large")
MORE_METRICS = ("bytes", "usd_per_1000", "area_bytes", "area_usd")
FALLBACK_COVERAGE = 0.5
"""Foreign inputs are judged at the certified threshold, or where nothing certifies at this coverage of the tuning rows."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a call costs, in US dollars. An assumption: set it to your own."""

    call: float = 0.0005
    megabyte: float = 0.05

    def of(self, payload_bytes: Floats) -> Floats:
        """(n,) of sending each payload."""
        return np.asarray(self.call + self.megabyte * payload_bytes / 1e6, np.float64)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One contender on one seed."""

    values: Mapping[str, float | None]
    """Metric → value; see `METRICS` and `MORE_METRICS`."""
    curves: Mapping[str, Floats] = field(default_factory=dict)
    """``calls``, ``bytes``, ``usd`` → accuracy at each share of `GRID`."""


@dataclass(frozen=True, kw_only=True)
class ForeignKept:
    """One seed: shares of foreign inputs that stay on the device."""

    gated: Mapping[str, float]
    """Kind → kept by support and threshold."""
    bare: Mapping[str, float]
    """Kind → kept by the same threshold alone."""
    coverage_cost: float
    """Share of the test rows that the threshold alone would keep and support refuses."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One task over its seeds."""

    task: GateTask
    seeds: Sequence[int]
    small: Sequence[float]
    """Accuracy alone, a seed."""
    large: Sequence[float]
    majority: Sequence[float]
    outcomes: Mapping[str, Sequence[Outcome]]
    """Contender → a seed."""
    foreign: Sequence[ForeignKept]
    """A seed; empty where the task has no foreign inputs."""
    all_bytes: float
    """Mean bytes of sending every input."""
    all_usd_per_1000: float

    def values(self, contender: str, metric: str) -> list[float | None]:
        """One value a seed."""
        return [outcome.values[metric] for outcome in self.outcomes[contender]]

    def mean(self, contender: str, metric: str) -> float | None:
        """Over the seeds; None where a seed has none."""
        return mean_of(self.values(contender, metric))

    def interval(self, contender: str, metric: str) -> tuple[float, float] | None:
        """95 %, over the seeds."""
        return interval(self.values(contender, metric))

    def ranked(self) -> list[str]:
        """Contenders by area, the best first; those without a curve last."""
        return sorted(self.outcomes, key=lambda name: -(self.mean(name, "area") or 0.0))


def study(task: GateTask, measured: Mapping[int, Measured], prices: Prices) -> Study:
    """Everything of one task."""
    cases = [make_case(one, seed) for seed, one in measured.items()]
    outcomes = _all_contended(task, cases, prices)
    small, large = ([float(getattr(case.test, f"{who}_right").mean()) for case in cases] for who in ("small", "large"))
    majority = [one.majority for one in measured.values()]
    costs = [prices.of(case.test.rows.payload_bytes.astype(np.float64)) for case in cases]
    sent = [float(case.test.rows.payload_bytes.mean()) for case in cases]
    usd = [1000 * float(cost.mean()) for cost in costs]
    for name, right, asked in (("large alone", large, 1.0), ("small alone", small, 0.0), ("majority", majority, 0.0)):
        outcomes[name] = [
            _alone(accuracy, asked, theirs, each, money)
            for accuracy, theirs, each, money in zip(right, large, sent, usd, strict=True)
        ]
    return Study(
        task=task,
        seeds=list(measured),
        small=small,
        large=large,
        majority=majority,
        outcomes=outcomes,
        foreign=[_foreign(task, case, one) for case, one in zip(cases, measured.values(), strict=True) if one.foreign],
        all_bytes=float(np.mean(sent)),
        all_usd_per_1000=float(np.mean(usd)),
    )


def _all_contended(task: GateTask, cases: Sequence[Case], prices: Prices) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {contender.name: [] for contender in CONTENDERS}
    for case in cases:
        right = {join: answers_right(join, case) for join in {contender.join for contender in CONTENDERS}}
        for contender in CONTENDERS:
            outcomes[contender.name].append(_contended(task, contender, case, right[contender.join], prices))
    return outcomes


def _contended(
    task: GateTask, contender: Contender, case: Case, asked_right: NDArray[np.bool_], prices: Prices
) -> Outcome:
    score = contender.rank(case)
    ranking, kept_right = score(case.test), case.test.small_right
    payload = case.test.rows.payload_bytes.astype(np.float64)
    money = prices.of(payload)
    curves = {
        name: deferral_curve(ranking, kept_right, asked_right, costs)
        for name, costs in (("calls", None), ("bytes", payload), ("usd", money))
    }
    threshold, coverage = certified_threshold(task, case, score) if contender.certifies else (0.0, None)
    kept = ranking >= threshold
    return Outcome(
        values={
            "accuracy": float(np.where(kept, kept_right, asked_right).mean()),
            "calls": float((~kept).mean()),
            "certified_coverage": coverage,
            "area": area(curves["calls"]),
            "calls_to_match_large": spent_to_match(curves["calls"], float(case.test.large_right.mean())),
            "bytes": float(np.where(kept, 0.0, payload).mean()),
            "usd_per_1000": 1000 * float(np.where(kept, 0.0, money).mean()),
            "area_bytes": area(curves["bytes"]),
            "area_usd": area(curves["usd"]),
        },
        curves={name: accuracy_at(curve, GRID) for name, curve in curves.items()},
    )


def certified_threshold(task: GateTask, case: Case, score: Score) -> tuple[float, float]:
    """The threshold in force and the coverage of the certification rows; +inf and 0 where nothing certifies."""
    outcome = fixed_sequence(
        score(case.certification),
        case.certification.small_right,
        thresholds_at(score(case.tuning)),
        task.risk,
        task.delta,
    )
    return (np.inf if outcome.threshold is None else outcome.threshold), outcome.coverage


def _alone(accuracy: float, calls: float, large: float, sent: float, usd: float) -> Outcome:
    values: dict[str, float | None] = dict.fromkeys((*METRICS, *MORE_METRICS))
    values |= {
        "accuracy": accuracy,
        "calls": calls,
        "calls_to_match_large": calls if accuracy >= large else None,
        "bytes": calls * sent,
        "usd_per_1000": calls * usd,
    }
    return Outcome(values=values)


def _foreign(task: GateTask, case: Case, measured: Measured) -> ForeignKept:
    shunt = next(contender for contender in CONTENDERS if contender.name == "shunt")
    threshold, _ = certified_threshold(task, case, shunt.rank(case))
    plain = SCORES["max_probability"]
    if not np.isfinite(threshold):
        threshold = float(np.quantile(plain(case.tuning.rows.small, case.tuning.small), 1 - FALLBACK_COVERAGE))
    gated, bare = {}, {}
    for kind, said in measured.foreign.items():
        sure = plain(said.small, softmax(said.small, case.small_temperature)) >= threshold
        bare[kind] = float(sure.mean())
        gated[kind] = float((sure & passes(said, case.support_threshold)).mean())
    own = plain(case.test.rows.small, case.test.small) >= threshold
    return ForeignKept(gated=gated, bare=bare, coverage_cost=float((own & ~case.test.known).mean()))


def mean_curve(outcomes: Sequence[Outcome], cost: str) -> Curve | None:
    """Over the seeds, on `GRID`; None for what has no curve."""
    if not all(cost in outcome.curves for outcome in outcomes):
        return None
    return Curve(GRID, np.mean([outcome.curves[cost] for outcome in outcomes], axis=0))
