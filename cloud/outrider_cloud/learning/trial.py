"""The gate's rows put to both systems: deployed and candidate, each with the large model behind it. Trains and writes nothing."""

from collections.abc import Sequence

from outrider_cloud.learning.asking import times
from outrider_cloud.learning.contest import Said, System, behaviour
from outrider_cloud.learning.material import Material
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.learning.promotion import Behaviour, Margins, Verdict, class_accuracy, judge_candidate
from outrider_cloud.learning.report import Contest
from outrider_cloud.strategies import STRATEGIES
from outrider_engine.model import Model


def compare(
    *, deployed: Model, candidate: Model, material: Material, work: OpenTask, margins: Margins
) -> tuple[Verdict, Contest]:
    """The gate's verdict on a candidate, from the very sessions that ship, and the figures behind it."""
    gate, tuning = material.gate, material.tuning
    classes = [work.task.labels[label] for label in gate.table.labels]
    before, system_before = _behave(deployed, material.deployed_tuning, material.deployed_gate, material, work)
    after, system_after = _behave(candidate, tuning.ask(candidate), gate.ask(candidate), material, work)
    before_ms, after_ms = times(deployed, candidate, gate)
    agreement = candidate.variant.parity.get("agreement", 0.0)
    verdict = judge_candidate(
        deployed=before,
        candidate=after,
        classes=classes,
        groups=gate.table.groups,
        agreement=agreement,
        latency_ratio=after_ms / before_ms,
        margins=margins,
    )
    return verdict, Contest(
        before=system_before,
        after=system_after,
        large_accuracy=float((material.large_gate.answers == gate.table.labels).mean()),
        before_ms=before_ms,
        after_ms=after_ms,
        agreement=agreement,
        classes=dict(class_accuracy(before, after, classes)),
    )


def _behave(model: Model, tuning: Said, gate: Said, material: Material, work: OpenTask) -> tuple[Behaviour, System]:
    def combine(large: Sequence[float], small: Sequence[float]) -> list[float]:
        return STRATEGIES[work.settings.strategy](large, small, work.settings.strength)

    return behaviour(
        rule=model.manifest.acceptance,
        tuning=tuning,
        gate=gate,
        large=material.large_gate.probabilities,
        labels=material.gate.table.labels,
        risk=work.task.policy.target_risk,
        combine=combine,
    )
