"""The life of every question between the outbox and the broker: offered, received, answered, expired. Knows no MQTT.

Nothing here is believed because it was sent: only a receipt lets payload go, and only an answer, a refusal or the end of its
time closes a question. Only a window of the questions is in memory; the rest waits in the outbox until there is room
(`outrider_edge.uplink.backlog`).
"""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Answered, Outcome, Refused
from outrider_edge.outbox.policy import is_spare
from outrider_edge.outbox.putting import age_of
from outrider_edge.outbox.rows import Settled
from outrider_edge.ports import MaySpare, OnAside, OnFinal, OnPulled, OutboxEntry
from outrider_edge.uplink.backlog import WINDOW, Backlog
from outrider_edge.uplink.escalations import offer_of
from outrider_edge.uplink.fulls import FullForms
from outrider_edge.uplink.offers import OfferBook, Question
from outrider_wire.errors import CallerUnknownError, OutriderError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Answer, Escalation, Receipt, Refusal
from outrider_wire.report import AnswerReport

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Offers on their way to the broker at once."""
RETRY_S = 10.0
"""Until an expiry that could not be written is tried again."""
SPARE_EVERY_S = 10.0
"""How often it is asked whether the budget has room for what is kept to be learnt from."""
SPARE_LOOKS = 8
"""How many of them are looked at in one turn; every one is read from the disk."""
_SPREAD = random.Random()  # noqa: S311 - spreads load, guards nothing


class Line(Protocol):
    """The broker as this module sees it."""

    @property
    def connected(self) -> bool:
        """Whether it can be reached now."""
        ...

    @property
    def packet_limit(self) -> int:
        """Bytes of the largest packet that it carries."""
        ...

    async def offer(self, escalation: Escalation) -> bool:
        """Publishes it; True when somebody listens.

        Raises:
            OutriderError: it could not be published.
        """
        ...


class Offering:
    """Offers what the outbox holds, until each question is closed. Runs on one event loop."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        line: Line,
        clock: RunClock,
        receipt_timer_s: float = 5.0,
        ask_again_s: float = 60.0,
        spare_every_s: float = SPARE_EVERY_S,
        window: int = WINDOW,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """``offers``, ``unheard`` (nobody listened), ``receipts`` and ``idle_receipts`` (of no question at hand), ``busy``, and answers by
        what became of them."""
        self._outbox = outbox
        self._line = line
        self._clock = clock
        self._spare_every_s = spare_every_s
        self._book = OfferBook(receipt_timer_s=receipt_timer_s, ask_again_s=ask_again_s)
        self._on_final: OnFinal | None = None
        self._on_aside: OnAside | None = None
        self._may_spare: MaySpare | None = None
        self._on_pulled: OnPulled | None = None
        self._fulls = FullForms()
        self._backlog = Backlog(shelves=outbox.shelves, book=self._book, window=window, ask_again_s=ask_again_s)
        self._expires_at = math.inf
        self._expiring = False
        self._lent: dict[str, dict[str, bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._flying = 0
        self._wake = asyncio.Event()

    def __contains__(self, id_: str) -> bool:
        """Whether that question is open, as far as is known here."""
        return id_ in self._book

    def listen(self, on_final: OnFinal) -> None:
        """Names whom to tell of outcomes."""
        self._on_final = on_final

    def listen_aside(self, on_aside: OnAside) -> None:
        """Names whom to tell of answers to inputs that were answered without them."""
        self._on_aside = on_aside

    def spare_when(self, may_spare: MaySpare) -> None:
        """Names who knows whether the budget has room for what nobody waits for; without one it has."""
        self._may_spare = may_spare

    def listen_pulled(self, on_pulled: OnPulled) -> None:
        """Names whom to tell of full forms that are pulled."""
        self._on_pulled = on_pulled

    async def start(self) -> None:
        """Takes up what the outbox holds, as there is room, and goes on until `stop`."""
        self._outbox.listen(on_closed=self._closed_there, on_reopened=self._begin_again)
        self._begin_again()
        self._spawn(self._pump())
        self._spawn(self._offer_spare())

    async def stop(self) -> None:
        """Stops offering; every question stays in the outbox."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def escalate(self, entry: OutboxEntry) -> None:
        """As `outrider_edge.ports.UplinkPort.escalate`. The first offer may overtake the commit; the return never does."""
        envelope = self._outbox.envelope_of(entry)
        now = self._clock.now()
        spare = is_spare(entry.state, entry.audit)
        question = Question(id=entry.id, due_at=now)
        data = [part.data for part in entry.parts]
        small = all(len(part.data) <= INLINE_BYTES and part.full is None for part in entry.parts)
        overlaps = not spare and small and self._ready and self._backlog.has_room and self._outbox.has_room(entry)
        age_s = age_of(entry)
        expires_at = now - age_s + envelope.keep_for_s
        if overlaps:
            question.in_flight = True
            self._book.add(question)
            self._spawn(self._offer(question, envelope, data, age_s=age_s))
            await asyncio.sleep(0)  # it is handed to the socket before the commit's thread competes for the interpreter
        kept = partial(self._kept, question, expires_at, spare=spare, offered=overlaps)
        committed = self._outbox.put(entry, envelope, kept=kept)
        try:
            await committed
        except OutriderError:
            self._close(entry.id)
            raise

    async def retry(self, id_: str = "") -> int:
        """Makes one question, or all, due now; how many. One that is kept to be learnt from is offered whatever the budget says.

        Raises:
            CallerUnknownError: there is no open question of that id.
        """
        now = self._clock.now()
        if not id_:
            self._book.hurry(now)
            self._backlog.rewind(now)
            self._wake.set()
            return self._outbox.view().count
        if id_ not in self._book:
            if (found := await self._outbox.load(id_)) is None:
                raise CallerUnknownError(
                    f"no open question {id_[:64]!r}", reason="unknown_input", fix="see: outrider edge outbox ls"
                )
            row, _ = found
            self._book.add(Question(id=id_, due_at=now, received=row.received, offers=row.offers))
        self._book.hurry(now, id_)
        self._wake.set()
        return 1

    def connected(self) -> None:
        """There is a new connection: everything open is offered again, or asked after."""
        self._book.connected(self._clock.now())
        self._wake.set()

    def open_blob(self, sha256: str) -> bytes | Path | None:
        """Payload that a worker may pull."""
        if (wanted := self._fulls.wanted(sha256)) is not None and self._on_pulled is not None:
            self._on_pulled(wanted)
        for lent in self._lent.values():
            if sha256 in lent:
                return lent[sha256]
        return self._outbox.open_blob(sha256)

    def on_receipt(self, receipt: Receipt) -> None:
        """The cloud has stored it."""
        self._heard()
        known = receipt.id in self._book  # else a repeated one, as a rule, or one of what is parked
        self.counts["receipts" if known else "idle_receipts"] += 1
        self._lent.pop(receipt.id, None)
        self._fulls.close(receipt.id)
        self._book.received(receipt.id, self._clock.now())
        self._outbox.received(receipt.id)

    async def on_answer(self, answer: Answer) -> None:
        """The large model's answer: the first one counts."""
        self._heard()
        await self._reply(answer.id, Answered(answer), "answered")

    async def on_refusal(self, refusal: Refusal) -> None:
        """The cloud will answer later, or never."""
        self._heard()
        if refusal.retry_after_s is None:
            await self._reply(refusal.id, Refused(refusal), "refused")
        elif refusal.id in self._book:
            self.counts["busy"] += 1
            wait_s = refusal.retry_after_s * _SPREAD.uniform(1.0, 1.25)
            self._book.busy(refusal.id, self._clock.now(), wait_s)
            self._wake.set()
        else:
            self._odd(refusal.id, "unknown")

    # Inside

    @property
    def _ready(self) -> bool:
        return self._line.connected and self._flying < IN_FLIGHT

    def _heard(self) -> None:
        self._book.heard(self._clock.now())
        self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counts["failures"] += 1
            log.error("uplink.offering_failed", exc_info=error)

    def _kept(self, question: Question, expires_at: float, *, spare: bool, offered: bool) -> bool:
        """It is durable: it is in the book, or the file keeps it for later. As `outrider_edge.outbox.putting.Kept`."""
        if not (spare or offered):
            self._backlog.arrived(question)
        self._expires_at = min(self._expires_at, expires_at)
        self._wake.set()
        return not spare and self._backlog.is_level

    def _begin_again(self) -> None:
        """The outbox is open, or is another file than before."""
        self._expires_at = self._clock.now()
        self._backlog.rewind(self._expires_at)
        self._wake.set()

    def _closed_there(self, id_: str, settled: Settled) -> None:
        """The outbox has ended it: it made way, or a person dropped it."""
        self._close(id_)
        self.counts["given_up"] += 1
        if settled.report is not None and self._on_final is not None:
            self._spawn(_told(self._on_final, settled.report))

    async def _offer_spare(self) -> None:
        """Now and then, the oldest of what is kept to be learnt from, while the budget has room.

        What it has no room for does not hold up what comes after it: the next turn goes on there, and round again.
        """
        while True:
            await asyncio.sleep(self._spare_every_s)
            try:
                while self._ready and await self._offered_spares():
                    pass
            except OutriderError as error:
                log.warning("uplink.not_loaded", extra={"reason": error.reason})

    async def _offered_spares(self) -> bool:
        """One turn; whether another one at once may find more."""
        found = await self._outbox.shelves.next_spare(SPARE_LOOKS)
        done = [await self._offered_spare(one.id) for one in found if one.id not in self._book]
        return len(done) >= SPARE_LOOKS and all(done)

    async def _offered_spare(self, id_: str) -> bool:
        """Whether it is done with here: offered, or open no more."""
        if (found := await self._outbox.load(id_)) is None:
            return True
        row, data = found
        if self._may_spare is not None and not self._may_spare(row.envelope):
            return False
        question = Question(id=id_, due_at=self._clock.now(), offers=row.offers, in_flight=True)
        self._book.add(question)
        await self._offer(question, row.envelope, data, age_s=row.age_s)
        return True

    async def _pump(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.now()
            if now >= self._expires_at and not self._expiring:
                self._expiring = True
                self._spawn(self._expire())
            if self._backlog.wants(now):
                self._spawn(self._take_up())
            if self._line.connected:
                for question in self._book.take_due(now, IN_FLIGHT - self._flying):
                    self._flying += 1  # counted here, so that the next look sees it
                    self._spawn(self._offer_stored(question))
            next_at = min(math.inf if self._expiring else self._expires_at, self._backlog.again_at)
            if self._ready:
                next_at = min(next_at, self._book.next_at())
            await _wait(self._wake, next_at - self._clock.now())

    async def _take_up(self) -> None:
        try:
            await self._backlog.take_up(self._clock.now())
        except OutriderError as error:
            log.warning("uplink.not_loaded", extra={"reason": error.reason})
            await asyncio.sleep(1.0)
        finally:
            self._backlog.taken_up()
            self._wake.set()

    async def _offer_stored(self, question: Question) -> None:
        try:
            found = await self._outbox.load(question.id)
        except OutriderError as error:
            log.warning("uplink.not_loaded", extra={"id": question.id, "reason": error.reason})
            self._book.offered(question.id, self._clock.now(), sent=False)
            self._wake.set()
            return
        finally:
            self._flying -= 1
        if found is None:
            self._close(question.id)
            return
        row, data = found
        await self._offer(question, row.envelope, data, age_s=row.age_s)

    async def _offer(
        self, question: Question, envelope: Escalation, data: Sequence[bytes | None], *, age_s: float
    ) -> None:
        escalation = offer_of(
            envelope, data, age_s=age_s, offer=question.offers + 1, packet_limit=self._line.packet_limit
        )
        lent = {
            part.sha256: held
            for part, held in zip(escalation.parts, data, strict=True)
            if part.inline is None and held is not None
        }
        if lent:
            self._lent[question.id] = lent
        if not question.received:
            self._fulls.offer(escalation)
        self._flying += 1
        sent = False
        try:
            self.counts["unheard"] += int(not await self._line.offer(escalation))
            sent = True
        except OutriderError as error:
            log.info("uplink.offer_failed", extra={"id": question.id, "reason": error.reason})
        finally:
            self._flying -= 1
            self.counts["offers"] += int(sent)
            self._book.offered(question.id, self._clock.now(), sent=sent)
            self._wake.set()
        if sent:
            self._outbox.offered(question.id)

    async def _expire(self) -> None:
        """Some of what nobody wants any more; the pump comes back for the rest."""
        self._expires_at = math.inf  # what is put meanwhile may expire before anything that the file knows
        next_at = self._clock.now() + RETRY_S
        try:
            ended, next_at = await self._outbox.expire()
            for id_, settled in ended:
                await self._ended_now(id_, settled, "expired")
        except OutriderError as error:
            log.warning("uplink.expiry_failed", extra={"reason": error.reason})
        finally:
            self._expires_at = min(self._expires_at, next_at)
            self._expiring = False
            self._wake.set()

    async def _reply(self, id_: str, outcome: Outcome, how: str) -> None:
        settled = await self._outbox.settle(id_, outcome)
        if settled.fault:
            self._odd(id_, "unfit", settled.fault)
        elif not settled.closed:
            self._close(id_)
            self._odd(id_, "repeated" if settled.known else "unknown")
        else:
            await self._ended_now(id_, settled, how, outcome)

    async def _ended_now(self, id_: str, settled: Settled, how: str, outcome: Outcome | None = None) -> None:
        self._close(id_)
        self.counts[how] += 1
        if settled.report is not None and self._on_final is not None:
            await self._on_final(settled.report)
        elif isinstance(outcome, Answered) and self._on_aside is not None:
            await self._on_aside(outcome.answer)

    def _close(self, id_: str) -> None:
        self._book.remove(id_)
        self._lent.pop(id_, None)
        self._fulls.close(id_)

    def _odd(self, id_: str, what: str, why: str = "") -> None:
        """An answer that changes nothing is counted; only one that should never have come is worth a line."""
        self.counts[what] += 1
        level = logging.DEBUG if what == "repeated" else logging.WARNING
        log.log(level, "uplink.answer_ignored", extra={"id": id_, "reason": what, "what": why})


async def _told(on_final: OnFinal, report: AnswerReport) -> None:
    await on_final(report)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, timeout_s) if timeout_s < 3600 else None):
            await event.wait()
    except TimeoutError:
        return
