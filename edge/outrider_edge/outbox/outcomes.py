"""How an escalation can end, and what its application is then told. Pure: an age is an argument; nothing is stored here."""

from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace

from outrider_wire.messages import Answer, Refusal
from outrider_wire.report import AnswerReport


@dataclass(frozen=True)
class Answered:
    """The large model's answer came."""

    answer: Answer


@dataclass(frozen=True)
class Expired:
    """It was kept as long as it was worth having."""


@dataclass(frozen=True)
class Refused:
    """The cloud will never answer it."""

    refusal: Refusal


@dataclass(frozen=True)
class GivenUp:
    """It was given up before its time: it made way, or a person dropped it, or its payload was lost."""

    why: str
    """For the application: ``it made way for what is worth more``."""


Outcome = Answered | Expired | Refused | GivenUp


def fault_of(answer: Answer, report: AnswerReport) -> str:
    """Why this cannot be the answer to that input; '' when it can."""
    if answer.task != report.task:
        return f"it answers task {answer.task}, and the input is one of {report.task}"
    if report.probabilities and answer.label not in report.probabilities:
        return "its label is not one of the task's"
    if answer.probabilities and len(answer.probabilities) != len(report.probabilities):
        return f"it has {len(answer.probabilities)} probabilities, and the task {len(report.probabilities)} labels"
    return ""


def audit_loss(report: AnswerReport, outcome: Outcome) -> int:
    """Whether an audit counts as an error: the large model says something else, or will never say anything."""
    return int(not isinstance(outcome, Answered) or outcome.answer.label != report.label)


def is_watched(report: AnswerReport) -> bool:
    """Whether an audit of that answer says something of a certificate: it was given under one."""
    return report.certified and bool(report.certificate)


def final_report(report: AnswerReport, outcome: Outcome, *, age_s: float, answer_within_ms: int) -> AnswerReport:
    """The final report of an input that ``report`` left pending.

    A failure is told as a failure: the local answer stands, uncertified, and the state says what became of the question.

    Args:
        report: the provisional one; its ``probabilities`` are in the task's order.
        outcome: how it ended.
        age_s: run time since its caller asked.
        answer_within_ms: what the application waits; an answer after that is late.
    """
    match outcome:
        case Answered(answer):
            return _answered(report, answer, age_s, late=age_s * 1000 > answer_within_ms)
        case Expired():
            return replace(report, state="expired", final=True, note="expired before the cloud answered")
        case GivenUp(why):
            return replace(report, state="expired", final=True, note=f"given up: {why}"[:2048])
        case Refused(refusal):
            detail = f" ({refusal.detail})" if refusal.detail else ""
            return replace(
                report, state="refused", final=True, note=f"the cloud refused it: {refusal.reason}{detail}"[:2048]
            )
        case _ as never:
            assert_never(never)


_FIRST_ONLY = "the large model was not sure of the first form, and could not have the full one"


def _answered(report: AnswerReport, answer: Answer, age_s: float, *, late: bool) -> AnswerReport:
    own_ms = report.ms.get("total", 0.0)
    cloud_ms = round(max(0.0, age_s * 1000 - own_ms), 3)
    named = dict(zip(report.probabilities, answer.probabilities, strict=False))
    return replace(
        report,
        state="cloud",
        label=answer.label,
        confidence=answer.confidence,
        answered_by="cloud",
        final=True,
        certified=False,
        late=late,
        note=_FIRST_ONLY if answer.form == "first_only" else "",
        form=answer.form or "",
        large_model=answer.model,
        strategy=answer.strategy,
        probabilities=named or report.probabilities,
        ms={**report.ms, "cloud": cloud_ms, "total": round(own_ms + cloud_ms, 3)},
    )
