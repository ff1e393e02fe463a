"""Outbox entries, a clock and a line that tests turn by hand, and patience."""

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from outrider_edge.outbox.clock import RunClock
from outrider_edge.ports import OutboxEntry, OutboxPart
from outrider_wire.errors import UnreachableError
from outrider_wire.limits import MESSAGE_BYTES
from outrider_wire.messages import Answer, Escalation
from outrider_wire.report import AnswerReport

MODEL = hashlib.sha256(b"a bundle").hexdigest()
LABELS = ("red", "green", "blue")
_NUMBERS = itertools.count(1)


def new_id() -> str:
    """A fresh id of the right shape."""
    return f"01990000-0000-7000-8000-{next(_NUMBERS):012x}"


def make_entry(
    *parts: bytes, id_: str = "", task: str = "colours", audit: bool = False, certified: bool = False, **fields: Any
) -> OutboxEntry:
    """An escalation (or audit) with one image part for each of ``parts``."""
    id_ = id_ or new_id()
    state = fields.get("state", "edge" if audit else "pending")
    report = AnswerReport(
        id=id_,
        task=task,
        state=state,
        label="red",
        confidence=0.5,
        threshold=0.8,
        answered_by="memory" if state == "memory" else "edge",
        final=state != "pending",
        certified=audit or certified,
        audited=audit,
        why="accepted" if audit else "low_confidence",
        model="1",
        model_digest=MODEL,
        probabilities=dict(zip(LABELS, (0.5, 0.3, 0.2), strict=True)),
        ms={"total": 1.0},
    )
    values: dict[str, Any] = {
        "parts": [
            OutboxPart(name=f"image-{place}", modality="image", media_type="image/png", data=data)
            for place, data in enumerate(parts or (b"pixels",))
        ],
        "why": "audit" if audit else "low_confidence",
        "audit": 0.02 if audit else 0.0,
        "answer_within_ms": 2_000,
        "keep_for_s": 3_600,
        "state": report.state,
        "probabilities": [0.5, 0.3, 0.2],
        **fields,
    }
    return OutboxEntry(
        id=id_,
        task=task,
        model=MODEL,
        label="red",
        report=report,
        **values,
    )


def make_answer(id_: str, label: str = "blue", **fields: Any) -> Answer:
    """What a large model would say."""
    values = {"confidence": 0.9, "probabilities": [0.05, 0.05, 0.9], "strategy": "shunt", "model": "large-1", **fields}
    return Answer(id=id_, task=values.pop("task", "colours"), label=label, **values)


class HandClock:
    """Run time that passes when a test says so."""

    def __init__(self, now: float = 1_000.0, boot_id: str = "boot-1") -> None:
        self.now = now
        self.boot_id = boot_id

    @property
    def clock(self) -> RunClock:
        """What the code under test is given."""
        return RunClock(boot_id=self.boot_id, now=lambda: self.now)


class HandLine:
    """`outrider_edge.uplink.offering.Line` that keeps what is offered."""

    def __init__(self) -> None:
        self.connected = True
        self.packet_limit = MESSAGE_BYTES
        self.heard = True
        self.offers: list[Escalation] = []

    async def offer(self, escalation: Escalation) -> bool:
        """Keeps it, when connected."""
        if not self.connected:
            raise UnreachableError("gone", reason="broker_unreachable")
        self.offers.append(escalation)
        return self.heard


async def until(fact: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Waits for it."""
    async with asyncio.timeout(timeout_s):
        while not fact():  # noqa: ASYNC110 - what is waited for lies in code that rings no bell for tests
            await asyncio.sleep(0.005)


async def eventually(fact: Callable[[], Awaitable[object]], timeout_s: float = 20.0) -> None:
    """As `until`, of what must itself be awaited."""
    async with asyncio.timeout(timeout_s):
        while not await fact():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
