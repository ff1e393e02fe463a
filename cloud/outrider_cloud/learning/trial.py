"""The gate's rows put to both systems: deployed and candidate, each with the large model behind it. Trains and writes nothing."""

from collections.abc import Sequence

from outrider_cloud.answering.strategies import STRATEGIES
from outrider_cloud.learning.asking import times
from outrider_cloud.learning.contest import Contender, GateRows, play_candidate, play_deployed
from outrider_cloud.learning.material import Material
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.learning.promotion import Margins, Verdict, class_accuracy, judge_candidate
from outrider_cloud.learning.report import Contest
from outrider_engine.model import Model
from outrider_wire.groups import GROUP_ROWS, some_per_group


def compare(
    *, deployed: Model, candidate: Model, material: Material, work: OpenTask, key: str, margins: Margins
) -> tuple[Verdict, Contest]:
    """The gate's verdict on a candidate, from the very sessions that ship, and the figures behind it.

    ``key`` chooses the tuning row of each group, as it will when the candidate is certified.
    """
    rows, gate = _gate_rows(material, work), material.gate
    drawn = some_per_group(material.tuning.table.groups, key, GROUP_ROWS)
    old = Contender(
        rule=deployed.manifest.acceptance,
        tuning=material.deployed_tuning.take(drawn),
        gate=material.deployed_gate,
    )
    new = Contender(
        rule=candidate.manifest.acceptance,
        tuning=material.tuning.ask(candidate).take(drawn),
        gate=gate.ask(candidate),
    )
    before = play_deployed(old, rows)
    after = play_candidate(new, rows, deployed=before.behaviour, margins=margins)
    before_ms, after_ms = times(deployed, candidate, gate)
    agreement = candidate.variant.parity.get("agreement", 0.0)
    verdict = judge_candidate(
        deployed=before.behaviour,
        candidate=after.behaviour,
        classes=rows.classes,
        groups=rows.groups,
        agreement=agreement,
        latency_ratio=after_ms / before_ms,
        margins=margins,
    )
    return verdict, Contest(
        before=before.system,
        after=after.system,
        large_accuracy=float((material.large_gate.answers == rows.labels).mean()),
        before_ms=before_ms,
        after_ms=after_ms,
        agreement=agreement,
        classes=dict(class_accuracy(before.behaviour, after.behaviour, rows.classes)),
    )


def _gate_rows(material: Material, work: OpenTask) -> GateRows:
    settings, labels = work.settings, material.gate.table.labels

    def combine(large: Sequence[float], small: Sequence[float]) -> Sequence[float]:
        return STRATEGIES[settings.strategy].combine(large, small, settings.terms)

    return GateRows(
        labels=labels,
        classes=[work.task.labels[label] for label in labels],
        groups=material.gate.table.groups,
        large=material.large_gate.probabilities,
        risk=work.task.policy.target_risk,
        combine=combine,
    )
