"""What is hoped for on each task, and whether the figures of this run bear it out. Measures nothing."""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from outrider.bench.gate.curves import interval
from outrider.bench.gate.study import Study


class Verdict(Struct, kw_only=True, frozen=True):
    """One aim, judged."""

    aim: str
    met: bool
    figure: str


Aim = Callable[[Study], Verdict]


def _beats_both(points: float) -> Aim:
    def judge(study: Study) -> Verdict:
        alone = np.maximum(study.small, study.large)
        found = [
            100 * (float(value or 0.0) - best)
            for value, best in zip(study.values("shunt", "accuracy"), alone, strict=True)
        ]
        return Verdict(
            aim=f"shunt ≥ the better model alone + {points:g} point(s)",
            met=float(np.mean(found)) >= points,
            figure=_points(found),
        )

    return judge


def _pruning_beats_shunt(points: float) -> Aim:
    def judge(study: Study) -> Verdict:
        found = _difference(study, "soft-prune", "shunt", "accuracy")
        return Verdict(
            aim=f"soft-prune ≥ shunt + {points:g} points at equal calls",
            met=float(np.mean(found)) >= points,
            figure=_points(found),
        )

    return judge


def _calls_at_most(share: float) -> Aim:
    def judge(study: Study) -> Verdict:
        calls = study.mean("shunt", "calls") or 0.0
        return Verdict(
            aim=f"calls of the certified shunt ≤ {share:.0%}", met=calls <= share, figure=f"{calls:.1%} of the inputs"
        )

    return judge


def _head_beats_threshold(study: Study) -> Verdict:
    found = _difference(study, "deferral-head", "max-prob", "area")
    return Verdict(aim="deferral head ≥ max-prob in area", met=float(np.mean(found)) >= 0.0, figure=_points(found))


def _foreign_refused(study: Study) -> Verdict:
    worst = {kind: float(np.mean([seed.gated[kind] for seed in study.foreign])) for kind in study.foreign[0].gated}
    kind = max(worst, key=lambda name: worst[name])
    cost = float(np.mean([seed.coverage_cost for seed in study.foreign]))
    return Verdict(
        aim="foreign inputs kept ≤ 2 % at ≤ 2 points of coverage",
        met=worst[kind] <= 0.02 and cost <= 0.02,
        figure=f"at most {worst[kind]:.1%} ({kind}), {100 * cost:.1f} points",
    )


AIMS: dict[str, Sequence[Aim]] = {
    "easy-vqa": (_head_beats_threshold, _foreign_refused),
    "mnist1d": (
        _beats_both(1.0),
        _pruning_beats_shunt(2.0),
        _calls_at_most(0.8),
        _head_beats_threshold,
        _foreign_refused,
    ),
    "fashion": (_head_beats_threshold, _foreign_refused),
    "fashion-weak": (_pruning_beats_shunt(2.0), _head_beats_threshold, _foreign_refused),
    "text": (_head_beats_threshold,),
}
"""Task → what is hoped for."""


def verdicts(study: Study) -> list[Verdict]:
    """Every aim of the task, judged."""
    return [aim(study) for aim in AIMS.get(study.task.name, ())]


def head_over_tasks(studies: Sequence[Study]) -> Verdict:
    """The aim that is about several tasks together."""
    better = [study.task.name for study in studies if _head_beats_threshold(study).met]
    return Verdict(
        aim="deferral head ≥ max-prob in area on at least two tasks",
        met=len(better) >= 2,
        figure=f"on {', '.join(better) or 'none'} of {len(studies)}",
    )


def _difference(study: Study, one: str, other: str, metric: str) -> list[float]:
    """Points, a seed: the same rows and models, so that only the contenders differ."""
    pairs = zip(study.values(one, metric), study.values(other, metric), strict=True)
    return [100 * (float(a or 0.0) - float(b or 0.0)) for a, b in pairs]


def _points(found: Sequence[float]) -> str:
    between = interval(list(found))
    spread = f" [{between[0]:+.1f}, {between[1]:+.1f}]" if between else ""
    return f"{float(np.mean(found)):+.1f} points{spread}"
