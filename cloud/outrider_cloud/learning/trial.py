"""The gate's rows put to both systems: deployed and candidate, each with the large model behind it. Trains and writes nothing."""

from collections.abc import Sequence

from outrider_cloud.learning.asking import times
from outrider_cloud.learning.contest import Contender, GateRows, behaviour, comparable_thresholds
from outrider_cloud.learning.material import Material
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.learning.promotion import Margins, Verdict, class_accuracy, judge_candidate
from outrider_cloud.learning.report import Contest
from outrider_cloud.strategies import STRATEGIES
from outrider_engine.model import Model


def compare(
    *, deployed: Model, candidate: Model, material: Material, work: OpenTask, margins: Margins
) -> tuple[Verdict, Contest]:
    """The gate's verdict on a candidate, from the very sessions that ship, and the figures behind it."""
    tuning, gate, task = material.tuning, material.gate, work.task
    old = Contender(rule=deployed.manifest.acceptance, tuning=material.deployed_tuning, gate=material.deployed_gate)
    new = Contender(rule=candidate.manifest.acceptance, tuning=tuning.ask(candidate), gate=gate.ask(candidate))
    rows = GateRows(labels=gate.table.labels, groups=gate.table.groups, large=material.large_gate.probabilities)

    def combine(large: Sequence[float], small: Sequence[float]) -> Sequence[float]:
        return STRATEGIES[work.settings.strategy](large, small, work.settings.strength)

    thresholds, method = comparable_thresholds([old, new], rows, risk=task.policy.target_risk, delta=task.delta)
    before, system_before = behaviour(old, rows, threshold=thresholds[0], combine=combine)
    after, system_after = behaviour(new, rows, threshold=thresholds[1], combine=combine)
    before_ms, after_ms = times(deployed, candidate, gate)
    agreement = candidate.variant.parity.get("agreement", 0.0)
    classes = [task.labels[label] for label in rows.labels]
    verdict = judge_candidate(
        deployed=before,
        candidate=after,
        classes=classes,
        groups=rows.groups,
        agreement=agreement,
        latency_ratio=after_ms / before_ms,
        margins=margins,
    )
    return verdict, Contest(
        method=method,
        before=system_before,
        after=system_after,
        large_accuracy=float((material.large_gate.answers == rows.labels).mean()),
        before_ms=before_ms,
        after_ms=after_ms,
        agreement=agreement,
        classes=dict(class_accuracy(before, after, classes)),
    )
