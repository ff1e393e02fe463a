"""What the caller is told of the device's own answer. Pure: from an answer and a decision to a report."""

from msgspec.structs import replace

from outrider_edge.journey.gate import Decision, Suspended
from outrider_edge.journey.pipeline import LocalAnswer
from outrider_edge.memory.answers import Hit
from outrider_wire.messages import Milliseconds
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

SHADOW = "shadow mode: nothing is sent, the device's own answer stands"
STANDS = "the device's own answer stands"
PRIVATE = "this task's inputs never leave the device, whose own answer stands"
ALARM = "audits say that the certificate's promise is broken, so that it is not claimed until there is a new one"
ALONE = "no broker is configured: this device is alone, and its own answer stands"


def kept_back(task: Task, *, alone: bool) -> tuple[str, str]:
    """Why nothing of this task is sent: a code for the metrics and a sentence for the caller; both '' when it may be."""
    if not task.privacy.escalate:
        return "private", PRIVATE
    if task.policy.mode == "shadow":
        return "shadow", SHADOW
    if alone:
        return "alone", ALONE
    return "", ""


def noted(decision: Decision, *, kept_back: str) -> str:
    """What a person should know of the decision besides its reason."""
    return "; ".join(filter(None, (ALARM if decision.why == "alarm" else "", kept_back)))


def samples_all(task: Task, *, alone: bool) -> bool:
    """Whether a random sample of all inputs is sent, although shadow mode sends nothing else."""
    policy = task.policy
    return policy.mode == "shadow" and policy.shadow_audits and task.privacy.escalate and not alone


def local_report(
    *,
    input_id: str,
    task: Task,
    local: LocalAnswer,
    decision: Decision,
    ms: Milliseconds,
    note: str,
    suspended: Suspended | None = None,
) -> AnswerReport:
    """The report of the device's own answer: final when the decision is to answer here, else provisional."""
    manifest = local.model.manifest
    return AnswerReport(
        id=input_id,
        task=task.name,
        state="edge" if decision.answer_here else "pending",
        label=local.label,
        confidence=max(local.probabilities),
        score=local.verdict.score,
        scored_by=manifest.acceptance.score,
        threshold=_threshold(local, suspended),
        stratum=local.verdict.stratum,
        answered_by="edge",
        final=decision.answer_here,
        certified=decision.certified,
        audited=decision.audited,
        why=decision.why,
        note=note or _unread(local),
        model=manifest.version,
        model_digest=local.model.digest,
        certificate="" if suspended else local.model.certificate_id,
        probabilities=dict(zip(task.labels, local.probabilities, strict=True)),
        ms=ms,
    )


def _unread(local: LocalAnswer) -> str:
    """Which part the model could not read at all: a question in another script, say."""
    if not local.unread:
        return ""
    named = " and ".join(repr(part) for part in local.unread)
    return f"the model on this device can read nothing of {named} (another script or language?)"


def from_memory(report: AnswerReport, hit: Hit, *, age_s: float, audited: bool) -> AnswerReport:
    """What the large model said of an input that was nearly this one, in the place of the device's own answer."""
    said = hit.answer
    return replace(
        report,
        state="memory",
        label=said.label,
        confidence=said.confidence,
        probabilities=dict(said.probabilities) or report.probabilities,
        answered_by="memory",
        final=True,
        certified=False,
        audited=audited,
        large_model=said.large_model,
        strategy=said.strategy,
        note=f"what the large model said {age_s:.0f} s ago of an input at distance {hit.distance:.4f}",
    )


def stages(local: LocalAnswer, total_ms: float) -> Milliseconds:
    """Milliseconds a stage; what is neither preparing nor the model is the gate's and the hop's."""
    return {
        "prepare": round(local.prepare_ms, 3),
        "model": round(local.model_ms, 3),
        "gate": round(max(0.0, total_ms - local.prepare_ms - local.model_ms), 3),
        "total": round(total_ms, 3),
    }


def stands(report: AnswerReport, problem: str) -> AnswerReport:
    """A provisional answer of which nothing could be sent: answered by the device, for good."""
    return replace(report, state="edge", final=True, note=f"{problem}: the device's own answer stands")


def overdue(report: AnswerReport, *, answer_within_ms: int, connected: bool, stopping: bool) -> AnswerReport:
    """What a caller gets whose wait is over: the device's own answer, final for this caller.

    The input itself stays ``pending`` until the large model's late answer or its expiry settles it.
    """
    if stopping:
        why = "the agent stops"
    elif not connected:
        why = "the broker is unreachable"
    else:
        why = f"no answer within {answer_within_ms} ms"
    return replace(report, final=True, note=f"{why}: the device's own answer stands")


def _threshold(local: LocalAnswer, suspended: Suspended | None) -> float | None:
    if suspended is not None:
        return suspended.stricter
    return None if local.model.certified else local.verdict.threshold
