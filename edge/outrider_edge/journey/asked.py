"""One input as its caller asked, and what is kept of it for the cloud. Pure values: what leaves is made by `way_out`."""

from msgspec import Struct

from outrider_edge.journey.gate import Decision
from outrider_edge.journey.pipeline import LocalAnswer, Parts
from outrider_edge.journey.way_out import Left
from outrider_edge.ports import OutboxEntry
from outrider_edge.uplink.escalations import wire_size
from outrider_wire.errors import CallerInputError
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

MAX_WAIT_MS = 86_400_000
MAX_GROUP = 128
AUDIT_KEEP_S = 7 * 86_400
"""An audit is kept at least this long, whatever the application's patience: one that expires counts as an error."""


class Asked(Struct, kw_only=True, frozen=True):
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
    left: Left | None = None
    """What leaves of it, once that is known."""

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
        """What is sent of it, but for what leaves of its parts and its group."""
        policy = self.task.policy
        return OutboxEntry(
            id=report.id,
            task=self.task.name,
            parts=[],
            why=decision.sent_as or decision.why,
            model=local.model.digest,
            label=local.label,
            probabilities=local.probabilities,
            audit=policy.audit_rate if decision.audited and decision.sent_as != "alarm" else 0.0,
            answer_within_ms=self.answer_within_ms if decision.send else 0,
            began=self.began,
            keep_for_s=max(policy.keep_for_s, AUDIT_KEEP_S) if decision.audited else policy.keep_for_s,
            state="edge" if decision.answer_here else "pending",
            report=report,
            durability=policy.durability,
        )

    def audit_of_memory(self, local: LocalAnswer, report: AnswerReport) -> OutboxEntry:
        """What is sent of an input that was answered from memory, to see whether the large model still says so; as `entry`."""
        return OutboxEntry(
            id=report.id,
            task=self.task.name,
            parts=[],
            why="memory",
            model=local.model.digest,
            label=local.label,
            probabilities=local.probabilities,
            answer_within_ms=0,
            keep_for_s=self.task.policy.keep_for_s,
            state="memory",
            report=report,
            durability=self.task.policy.durability,
        )

    def wire_size(self) -> int:
        """Bytes that sending it takes; an upper bound while it is not known what leaves."""
        if self.left is None:
            sizes = [(part.name, _size(self.parts[part.name])) for part in self.task.inputs]
            group, fulls = self.group, 0
        else:
            sizes = [(part.name, len(part.data)) for part in self.left.parts]
            group, fulls = self.left.group, sum(part.full is not None for part in self.left.parts)
        return wire_size(sizes, names=len(self.task.name) + len(group), labels=len(self.task.labels), fulls=fulls)


def _size(value: bytes | str) -> int:
    return len(value) if isinstance(value, bytes) else len(value.encode())
