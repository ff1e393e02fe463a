"""One event of a source, from its beginning to its end: told as it changes, and asked about at most once. Knows no camera and no topic."""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from msgspec.structs import replace

from outrider_edge.journey.agent import Agent
from outrider_edge.sources.events import EndedBy, EventLog, SourceEvent, Told, Trouble, Why
from outrider_edge.sources.figures import Figures
from outrider_edge.sources.fitting import Fitted
from outrider_wire.errors import OutriderError
from outrider_wire.ids import RANDOM_BYTES, uuid7
from outrider_wire.report import TERMINAL, AnswerReport

log = logging.getLogger(__name__)

MOST_UNDER_WAY = 256
"""Events of one source that wait for the cloud; more wait for them."""


class Teller:
    """Begins the events of one source.

    Args:
        device: this device's name.
        source: the source's.
        fitted: which part of which task it gives.
        agent: answers.
        events: where they are told.
        figures: of the source.
    """

    def __init__(
        self, *, device: str, source: str, fitted: Fitted, agent: Agent, events: EventLog, figures: Figures
    ) -> None:
        self.device = device
        self.source = source
        self.fitted = fitted
        self.agent = agent
        self.events = events
        self.figures = figures
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, why: Why, *, origin: str = "", share: float = 0.0) -> "Happening":
        """A new event."""
        return Happening(self, why, origin=origin, share=share)

    async def one(self, value: bytes, why: Why, *, origin: str = "") -> OutriderError | None:
        """An input that is an event by itself: asked about, and ended once it has its answer. What the matter was, if anything."""
        happening = self.begin(why, origin=origin)
        trouble = await happening.ask(value)
        await self.in_background(happening.end("answered"))
        return trouble

    async def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Lets ``work`` go on beside the source, unless much does already."""
        while len(self._under_way) >= MOST_UNDER_WAY:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Ends what still waits; each says so."""
        await asyncio.sleep(0)  # one that has not begun would not
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


class Happening:
    """One event; `Teller.begin` makes it, and that is told."""

    def __init__(self, teller: Teller, why: Why, *, origin: str, share: float) -> None:
        self._teller = teller
        self._began = time.monotonic()
        self._final: asyncio.Task[None] | None = None
        self.asked = False
        now_ms = time.time_ns() // 1_000_000
        self._event = SourceEvent(
            id=uuid7(now_ms, os.urandom(RANDOM_BYTES)),
            type="new",
            source=teller.source,
            task=teller.fitted.task.name,
            device=teller.device,
            why=why,
            at_ms=now_ms,
            began_ms=now_ms,
            lasted_ms=0,
            origin=origin,
            share=round(share, 4),
            frames=1,
        )
        teller.figures.events += 1
        teller.events.tell(self._event)

    @property
    def share(self) -> float:
        """The largest so far."""
        return self._event.share

    def looked(self, share: float) -> bool:
        """A further frame was looked at; whether more differs in it than in any before."""
        more = share > self._event.share
        self._event = replace(self._event, frames=self._event.frames + 1, share=round(max(share, self._event.share), 4))
        return more

    async def ask(self, value: bytes) -> OutriderError | None:
        """Asks about it, the one time; returns once the device has its own answer, or why there is none."""
        teller, self.asked = self._teller, True
        parts: Mapping[str, bytes | str] = {**teller.fitted.others, teller.fitted.part.name: value}
        teller.figures.asked += 1
        try:
            report = await teller.agent.submit(teller.fitted.task.name, parts, wait=False, group=self._event.id)
        except OutriderError as error:
            teller.figures.refused += 1
            self._tell("update", trouble=Trouble(reason=error.reason, what=error.what))
            return error
        self._tell("update", answer=report)
        if report.state not in TERMINAL:
            self._final = asyncio.create_task(self._await_final(report))
        return None

    async def end(self, by: EndedBy) -> None:
        """It is over; told once the answer is final, or its deadline is past."""
        try:
            if self._final is not None:
                await self._final
        finally:
            self._tell("end", ended_by=by)

    async def _await_final(self, report: AnswerReport) -> None:
        within_s = self._teller.fitted.task.policy.answer_within_ms / 1e3
        try:
            final = await self._teller.agent.wait_final(report.id, within_s)
        except OutriderError as error:  # the outbox's file is out of reach: the device's own answer stands
            log.info("event.no_final", extra={"id": report.id, "what": str(error)})
            return
        if final.state in TERMINAL:
            self._tell("update", answer=final)

    def _tell(self, what: Told, **changes: Any) -> None:
        self._event = replace(
            self._event,
            type=what,
            at_ms=time.time_ns() // 1_000_000,
            lasted_ms=round(1e3 * (time.monotonic() - self._began)),
            **changes,
        )
        self._teller.events.tell(self._event)
