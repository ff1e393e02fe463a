"""The JSON line of ``outrider bench gate``: keys that other tools read and that stay."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from outrider.bench.gate.aims import Verdict, verdicts
from outrider.bench.gate.study import METRICS, MORE_METRICS, Prices, Study


class ContenderFigures(Struct, kw_only=True, frozen=True):
    """Means over the seeds; None where a figure does not exist for a contender, or for one of its seeds."""

    accuracy: float
    """On test rows, at the certified threshold."""
    calls: float
    """Share of the test rows that goes to the large model there."""
    certified_coverage: float | None
    """Share of the certification rows that stays on the device; 0: nothing certifies."""
    area: float | None
    """Under accuracy against share of calls."""
    calls_to_match_large: float | None
    """Least share of calls at which it is as accurate as the large model alone."""
    bytes: float
    """Sent an input, at the certified threshold."""
    usd_per_1000: float
    """Spent on a thousand inputs there."""
    area_bytes: float | None
    area_usd: float | None
    ci95: Mapping[str, tuple[float, float] | None]
    """Metric → interval of the mean over seeds."""


class ForeignFigures(Struct, kw_only=True, frozen=True):
    """Kind → mean share kept; ``coverage_cost``: of the device's own inputs that the support gate gives up."""

    kept: Mapping[str, float]
    kept_by_threshold_alone: Mapping[str, float]
    coverage_cost: float


class TaskFigures(Struct, kw_only=True, frozen=True):
    """One task."""

    small: float
    large: float
    majority: float
    seeds: list[int]
    risk: float
    delta: float
    strategies: Mapping[str, ContenderFigures]
    foreign: ForeignFigures | None
    aims: list[Verdict]


class GateFigures(Struct, kw_only=True, frozen=True):
    """The whole line."""

    tasks: Mapping[str, TaskFigures]
    prices: Mapping[str, float]


def figures(studies: Sequence[Study], prices: Prices) -> GateFigures:
    """The line of these studies."""
    return GateFigures(
        tasks={study.task.name: _task(study) for study in studies},
        prices={"usd_per_call": prices.call, "usd_per_megabyte": prices.megabyte},
    )


def _task(study: Study) -> TaskFigures:
    return TaskFigures(
        small=_mean(study.small),
        large=_mean(study.large),
        majority=_mean(study.majority),
        seeds=list(study.seeds),
        risk=study.task.risk,
        delta=study.task.delta,
        strategies={name: _contender(study, name) for name in study.ranked()},
        foreign=_foreign(study) if study.foreign else None,
        aims=verdicts(study),
    )


def _contender(study: Study, name: str) -> ContenderFigures:
    return ContenderFigures(
        **{metric: _round(study.mean(name, metric)) for metric in (*METRICS, *MORE_METRICS)},  # type: ignore[arg-type]  # the names are the struct's fields
        ci95={metric: _pair(study.interval(name, metric)) for metric in METRICS},
    )


def _foreign(study: Study) -> ForeignFigures:
    kinds = study.foreign[0].gated
    return ForeignFigures(
        kept={kind: _mean([seed.gated[kind] for seed in study.foreign]) for kind in kinds},
        kept_by_threshold_alone={kind: _mean([seed.bare[kind] for seed in study.foreign]) for kind in kinds},
        coverage_cost=_mean([seed.coverage_cost for seed in study.foreign]),
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _pair(between: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if between is None else (round(between[0], 4), round(between[1], 4))
