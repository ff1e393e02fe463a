"""What is known of a configured large model, and what is right or wrong with it, each with the way out. Asks nothing; prints nothing."""

from collections.abc import Sequence

from msgspec import Struct

from outrider.doctor_findings import Finding
from outrider_cloud.answering.strategies import LEAST_CAPTURED
from outrider_cloud.config import TaskSettings
from outrider_cloud.large.base import LargeRefusal, LargeReply

_ENOUGH = 100
"""With fewer labelled samples the calibration is said with a warning."""


class Calibrated(Struct, kw_only=True):
    """What labelled samples say."""

    samples: int
    accuracy: float
    ece: float
    """Expected calibration error of the model as it is."""
    temperature: float
    """Under which it would be calibrated; in ``[[tasks.grades]]``."""
    ece_at_temperature: float
    strength: float | None = None
    """λ of ``soft-prune``, fitted with the model that ``fuse_with`` names."""
    keep: float | None = None
    """``keep`` of ``hard-prune`` at the configured ``alpha``, likewise."""


class ModelReport(Struct, kw_only=True):
    """Everything on the screen."""

    task: str
    kind: str
    name: str
    strategy: str
    samples: int
    answered: int
    refusals: dict[str, int]
    captured: float
    """Median share of the mass that fell on the labels."""
    captured_worst: float
    tokens: float
    """Mean an answer."""
    money: float
    """Mean an answer, in the currency of the configured prices."""
    ms_p50: float
    sample: dict[str, float]
    """The first answer's likeliest labels."""
    serves: dict[str, str]
    """Strategy → '' where it can, else why it cannot."""
    calibration: Calibrated | None
    findings: list[Finding]


def rows(report: ModelReport) -> list[tuple[str, str]]:
    """The report as (name, value), for people."""
    said = ", ".join(f"{label} {p:.1%}" for label, p in report.sample.items()) or "nothing"
    served = [name if not why else f"{name} ✗ ({why})" for name, why in report.serves.items()]
    made = [
        ("kind", report.kind),
        ("name and revision", report.name),
        ("of the first sample it says", said),
        ("mass on the labels", f"median {report.captured:.1%}, worst {report.captured_worst:.1%}"),
        ("an answer", f"{report.ms_p50:.1f} ms p50, {report.tokens:.0f} tokens, {report.money:.6f} money"),
        ("can serve", "; ".join(served)),
    ]
    if (found := report.calibration) is not None and found.strength is not None and found.keep is not None:
        made.append(("fitted with fuse_with", f"lambda = {found.strength}, keep = {found.keep:.4g}"))
    return made


def findings_of(
    settings: TaskSettings, report: ModelReport, replies: Sequence[LargeReply | LargeRefusal]
) -> list[Finding]:
    found = [_answers(report, replies)]
    if report.answered:
        found.append(_mass(report))
    why = report.serves[report.strategy]
    found.append(
        Finding(
            check="strategy",
            level="bad" if why else "ok",
            what=f"{report.strategy}: {why or 'can be served'}",
            fix="choose a strategy that this model can serve" if why else "",
        )
    )
    found.append(_calibration_finding(settings, report.calibration))
    if report.tokens and not report.money:
        found.append(
            Finding(
                check="price",
                level="warning",
                what=f"{report.tokens:.0f} tokens an answer, and no price",
                fix="set asking.price_in and asking.price_out (money for a million tokens)",
            )
        )
    return found


def _answers(report: ModelReport, replies: Sequence[LargeReply | LargeRefusal]) -> Finding:
    refused = next((reply for reply in replies if isinstance(reply, LargeRefusal)), None)
    what = f"{report.answered} of {report.samples} samples answered"
    if refused is None:
        return Finding(check="answers", level="ok", what=what)
    return Finding(
        check="answers",
        level="warning" if report.answered else "bad",
        what=f"{what}; {refused.reason}: {refused.detail}",
        fix="see what its server logs" if report.kind == "openai" else "correct the samples, or the task",
    )


def _mass(report: ModelReport) -> Finding:
    enough = report.captured_worst >= LEAST_CAPTURED
    return Finding(
        check="mass on the labels",
        level="ok" if enough else "warning",
        what=f"median {report.captured:.1%}, worst {report.captured_worst:.1%}",
        fix="" if enough else "say in the task's prompt that one letter is the answer, or use a model that follows it",
    )


def _calibration_finding(settings: TaskSettings, calibration: Calibrated | None) -> Finding:
    if calibration is None:
        return Finding(
            check="calibration", level="warning", what="not measured", fix="give labelled samples: --samples DIR"
        )
    what = (
        f"{calibration.accuracy:.1%} right of {calibration.samples}, ECE {calibration.ece:.3f}; "
        f"{calibration.ece_at_temperature:.3f} at temperature {calibration.temperature:.2f}"
    )
    if calibration.samples < _ENOUGH:
        fix = f"give at least {_ENOUGH} labelled samples before you rely on it"
        return Finding(check="calibration", level="warning", what=what, fix=fix)
    off = calibration.ece > 0.05 and calibration.ece_at_temperature < calibration.ece and not settings.grades
    fix = f"set [[tasks.grades]] temperature = {calibration.temperature:.2f}" if off else ""
    return Finding(check="calibration", level="warning" if off else "ok", what=what, fix=fix)
