"""One input as its caller asked, and what of it leaves the device. Pure values."""

from dataclasses import dataclass

from outrider_edge.journey.gate import Decision
from outrider_edge.journey.pipeline import LocalAnswer, Parts
from outrider_edge.ports import OutboxEntry, OutboxPart
from outrider_edge.uplink.escalations import wire_size
from outrider_wire.errors import CallerInputError
from outrider_wire.messages import Modality
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

MAX_WAIT_MS = 86_400_000
MAX_GROUP = 128
AUDIT_KEEP_S = 7 * 86_400
"""An audit is kept at least this long, whatever the application's patience: one that expires counts as an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One input and its caller's wishes."""

    task: Task
    parts: Parts
    wait: bool
    """For the final answer, up to the deadline; else the device's own comes at once, marked provisional."""
    answer_within_ms: int
    group: str
    insist: bool
    """The large model is asked even when the device is sure."""
    began: float
    """On `time.perf_counter`, in seconds."""

    def check(self) -> None:
        """The wishes' bounds; the parts are the pipeline's to judge.

        Raises:
            CallerInputError: a wish is out of bounds.
        """
        if not 0 <= self.answer_within_ms <= MAX_WAIT_MS:
            raise CallerInputError(
                f"answer_within_ms is {self.answer_within_ms}, and not between 0 and {MAX_WAIT_MS}",
                reason="invalid_wait",
                fix="give a deadline in milliseconds, or none",
            )
        if len(self.group) > MAX_GROUP:
            raise CallerInputError(
                f"group has {len(self.group)} characters, more than {MAX_GROUP}",
                reason="invalid_group",
                fix="give a shorter one",
            )

    def entry(self, local: LocalAnswer, decision: Decision, report: AnswerReport) -> OutboxEntry:
        """What is sent of it."""
        policy = self.task.policy
        return OutboxEntry(
            id=report.id,
            task=self.task.name,
            parts=self._outgoing(),
            why=decision.sent_as or decision.why,
            model=local.model.digest,
            label=local.label,
            probabilities=local.probabilities,
            audit=policy.audit_rate if decision.audited and decision.sent_as != "alarm" else 0.0,
            answer_within_ms=self.answer_within_ms if decision.send else 0,
            began=self.began,
            keep_for_s=max(policy.keep_for_s, AUDIT_KEEP_S) if decision.audited else policy.keep_for_s,
            group=self.group,
            state="edge" if decision.answer_here else "pending",
            report=report,
            durability=policy.durability,
        )

    def audit_of_memory(self, local: LocalAnswer, report: AnswerReport) -> OutboxEntry:
        """What is sent of an input that was answered from memory, to see whether the large model still says so."""
        return OutboxEntry(
            id=report.id,
            task=self.task.name,
            parts=self._outgoing(),
            why="memory",
            model=local.model.digest,
            label=local.label,
            probabilities=local.probabilities,
            answer_within_ms=0,
            keep_for_s=self.task.policy.keep_for_s,
            group=self.group,
            state="memory",
            report=report,
            durability=self.task.policy.durability,
        )

    def wire_size(self) -> int:
        """Bytes that sending it would take."""
        sizes = ((part.name, _size(self.parts[part.name])) for part in self.task.inputs)
        return wire_size(sizes, names=len(self.task.name) + len(self.group), labels=len(self.task.labels))

    def _outgoing(self) -> list[OutboxPart]:
        outgoing = []
        for part in self.task.inputs:
            value = self.parts[part.name]
            data = value.encode() if isinstance(value, str) else bytes(value)
            media_type = media_type_of(part.modality, data)
            outgoing.append(OutboxPart(name=part.name, modality=part.modality, media_type=media_type, data=data))
        return outgoing


def _size(value: bytes | str) -> int:
    return len(value) if isinstance(value, bytes) else len(value.encode())


def media_type_of(modality: Modality, data: bytes) -> str:
    """What the bytes are: the first of them decide, whatever the caller called them."""
    if modality == "text":
        return "text/plain; charset=utf-8"
    if modality == "image":
        return "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return "application/octet-stream"
