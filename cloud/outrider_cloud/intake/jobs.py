"""One escalation on its way through the cloud: what is known of it, and how it becomes a row and back. Does no I/O."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from outrider_cloud.intake.admission import Key
from outrider_cloud.lease_clock import Lease
from outrider_cloud.store.examples import NewExample
from outrider_cloud.store.inputs import Claim
from outrider_wire.codec import MSGPACK, decode, encode
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Answer, Escalation, Refusal
from outrider_wire.roles import Shares, role_of
from outrider_wire.task import Task

Offered = Literal["claimed", "repeated", "failed"]
"""What an offer that was taken comes to: it is ours, the store knew more of it, or it could not be stored."""


@dataclass(kw_only=True, eq=False)
class Job:
    """An escalation that was admitted. Times without ``_ms`` are seconds of the event loop's clock."""

    device: str
    task: Task
    escalation: Escalation
    content_type: str
    """Coding of the request, and so of the reply."""
    correlation: bytes
    received_ms: int
    arrived: float
    answer_by: float
    keep_until: float
    mark: int = 0
    """The newest mark of something forgotten that was known when it came."""
    claimed: bool = False
    """Whether it stands in the store: only then may a receipt be sent."""
    in_memory: bool = False
    """The task gave durability up: stored after it is answered. Never an audit, which would count as an error if lost."""
    stored: asyncio.Future[Offered] | None = None
    """Of one that is asked about before it stands in the store: what came of its offer, once that is durable."""
    told: Answer | Refusal | None = None
    """What its device has been told before it stands in the store: said again to whoever asks meanwhile."""
    forgotten: bool = False
    """Somebody asked that nothing of it be left: whatever comes of it is not written down, and not told."""
    expired: bool = False
    """Its device has been, or is being, told that its time ran out."""
    queued: float = 0.0
    failures: int = 0
    ms: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing is to come of it any more, whatever is still under way."""
        return self.forgotten or self.expired

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it: ids are the device's own."""
        return self.device, self.escalation.id

    @property
    def place(self) -> Key:
        """What it is entered as among the open questions."""
        return Key(self.task.name, *self.key)

    def came_to(self, offered: Offered) -> None:
        """Its offer has come to that; the first word counts."""
        self.claimed = self.claimed or offered == "claimed"
        if self.stored is not None and not self.stored.done():
            self.stored.set_result(offered)

    @property
    def id(self) -> str:
        """The input's."""
        return self.escalation.id

    @property
    def size(self) -> int:
        """Bytes of its parts, and of what may still be pulled of them: room is taken for both when it is admitted."""
        return sum(part.size + (part.unseen.size if part.unseen else 0) for part in self.escalation.parts)

    @property
    def holds_back(self) -> bool:
        """Whether the device must keep what it has, and so gets no receipt: a full form may still be asked for."""
        return any(part.unseen for part in self.escalation.parts)

    @property
    def is_audit(self) -> bool:
        """Whether the device has answered it for good, and asks for the large model's own word: it judges that answer, so
        that the device's distribution must not colour it."""
        return self.escalation.audit > 0

    def claim(self, *, worker: str, lease: Lease) -> Claim:
        """Its row."""
        return Claim(
            device=self.device,
            id=self.escalation.id,
            task=self.task.name,
            worker=worker,
            lease=lease,
            received_ms=self.received_ms,
            answer_by_ms=self.received_ms + self.escalation.answer_within_ms,
            keep_until_ms=self.received_ms + self.escalation.keep_for_s * 1000,
            content_type=self.content_type,
            correlation=self.correlation,
            request=encode(self.escalation),
            mark=self.mark,
        )

    def example(self, large: Sequence[float], *, model: str, key: str, shares: Shares) -> NewExample | None:
        """What learning keeps of it, with the large model's own distribution; None when the task keeps nothing."""
        if not self.task.privacy.keep_examples:
            return None
        sent = self.escalation
        group = sent.group or sent.id
        teacher = list(large)
        return NewExample(
            task=self.task.name,
            group=group,
            role=role_of(group, key=key, shares=shares),
            source="audit" if self.is_audit else "escalation",
            device=self.device,
            input=sent.id,
            why=sent.why,
            parts={part.name: part.sha256 for part in sent.parts},
            payloads={part.sha256: part.inline for part in sent.parts if part.inline is not None},
            teacher_label=self.task.labels[teacher.index(max(teacher))],
            teacher_probabilities=teacher,
            teacher_model=model,
            small_label=sent.label,
            small_probabilities=sent.probabilities,
            small_model=sent.model,
            audit=sent.audit,
            created_ms=self.received_ms,
        )

    def unanswered(self, *, key: str, shares: Shares) -> NewExample | None:
        """The trace of an audit that ends without an answer: an error, for whoever certifies from audits. None: no audit."""
        if not self.is_audit or not self.task.privacy.keep_examples:
            return None
        sent = self.escalation
        group = sent.group or sent.id
        return NewExample(
            task=self.task.name,
            group=group,
            role=role_of(group, key=key, shares=shares),
            source="audit",
            device=self.device,
            input=sent.id,
            why=sent.why,
            parts={},
            small_label=sent.label,
            small_probabilities=sent.probabilities,
            small_model=sent.model,
            audit=sent.audit,
            created_ms=self.received_ms,
        )


def new_job(
    *,
    device: str,
    task: Task,
    escalation: Escalation,
    content_type: str,
    correlation: bytes | None,
    now: float,
    received_ms: int,
    mark: int = 0,
) -> Job:
    """An escalation that has just come."""
    return Job(
        device=device,
        task=task,
        escalation=escalation,
        content_type=content_type or MSGPACK,
        correlation=correlation or escalation.id.encode(),
        received_ms=received_ms,
        arrived=now,
        answer_by=now + escalation.answer_within_ms / 1000,
        keep_until=now + escalation.keep_for_s,
        mark=mark,
        in_memory=task.policy.durability == "memory" and escalation.offer == 1 and escalation.audit <= 0,
    )


def job_from_row(row: Mapping[str, Any], task: Task, *, now: float, now_ms: int) -> Job:
    """One that another process, or this one before it was restarted, had claimed."""
    escalation = decode(row["request"], limit=BLOB_BYTES)
    if not isinstance(escalation, Escalation):
        raise TypeError(f"a stored request is a {type(escalation).__name__}")
    return Job(
        device=row["device"],
        task=task,
        escalation=escalation,
        content_type=row["content_type"],
        correlation=row["correlation"],
        received_ms=row["received_ms"],
        arrived=now - (now_ms - row["received_ms"]) / 1000,
        answer_by=now + (row["answer_by_ms"] - now_ms) / 1000,
        keep_until=now + (row["keep_until_ms"] - now_ms) / 1000,
        claimed=True,
    )


def with_inline(job: Job, fetched: Mapping[str, bytes]) -> None:
    """Puts pulled parts into the escalation itself: what a task that keeps no examples stores, and forgets, as one row."""
    parts = [
        msgspec.structs.replace(part, inline=fetched[part.name]) if part.name in fetched else part
        for part in job.escalation.parts
    ]
    job.escalation = msgspec.structs.replace(job.escalation, parts=parts)
