"""When to offer what: the questions at hand, and the moment at which each is next put on the wire. Pure; time is an argument.

What has no receipt is offered again after `receipt_timer_s`, then after twice as long, up to `MAX_TIMER_S`; what has one is asked
after every `ask_again_s`, because its answer may have been lost. A new connection, and the first sign of life after a silence,
make everything due at once. The book holds a window of what the outbox holds; what the cloud has stored can be parked: it
leaves the book, and comes back with the next round over the file.
"""

import heapq
from dataclasses import dataclass

MAX_TIMER_S = 30.0
_SPARE_ENTRIES = 64
"""Entries that may be out of date before they are swept out, beside as many as there are questions."""


@dataclass(kw_only=True, slots=True)
class Question:
    """One open question, as the book keeps it. Times are run time in seconds."""

    id: str
    due_at: float
    received: bool = False
    offers: int = 0
    in_flight: bool = False
    """An offer is being published now."""


class OfferBook:
    """Open questions of a device, by id and by when they are due."""

    def __init__(self, *, receipt_timer_s: float = 5.0, ask_again_s: float = 60.0) -> None:
        self._receipt_timer_s = receipt_timer_s
        self._ask_again_s = ask_again_s
        self._open: dict[str, Question] = {}
        self._received: dict[str, None] = {}
        self._by_due: list[tuple[float, str]] = []
        self._heard_at = float("-inf")

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._open

    def add(self, question: Question) -> None:
        """Takes up an open question."""
        self._open[question.id] = question
        if question.received:
            self._received[question.id] = None
        self._due(question, question.due_at)

    def remove(self, id_: str) -> None:
        """It is answered, expired, refused or given up."""
        self._received.pop(id_, None)
        if self._open.pop(id_, None) is not None:
            self._sweep()

    def park(self, now: float, most: int) -> int:
        """Lets questions go that the cloud has stored and that are not due, the longest stored first; how many."""
        parked = [id_ for id_ in self._received if not self._open[id_].in_flight and self._open[id_].due_at > now][
            :most
        ]
        for id_ in parked:
            self.remove(id_)
        return len(parked)

    def take_due(self, now: float, limit: int) -> list[Question]:
        """At most ``limit`` questions to offer now, longest due first; each is in flight until `offered`."""
        taken: list[Question] = []
        while self._by_due and self._by_due[0][0] <= now and len(taken) < limit:
            due_at, id_ = heapq.heappop(self._by_due)
            question = self._open.get(id_)
            if question is not None and question.due_at == due_at and not question.in_flight:
                question.in_flight = True
                taken.append(question)
        return taken

    def next_at(self) -> float:
        """When something is due, at the earliest; infinity: nothing will be."""
        return self._by_due[0][0] if self._by_due else float("inf")

    def offered(self, id_: str, now: float, *, sent: bool) -> None:
        """An offer has been published (``sent``), or could not be."""
        if (question := self._open.get(id_)) is None:
            return
        question.in_flight = False
        question.offers += int(sent)
        if question.due_at > now:  # the cloud's reply was faster than the broker's acknowledgement
            self._due(question, question.due_at)
        elif question.received:
            self._due(question, now + self._ask_again_s)
        else:
            times = min(max(question.offers - 1, 0), 16)
            self._due(question, now + min(max(MAX_TIMER_S, self._receipt_timer_s), self._receipt_timer_s * 2.0**times))

    def received(self, id_: str, now: float) -> None:
        """The cloud has stored it."""
        if (question := self._open.get(id_)) is not None:
            question.received = True
            self._received[id_] = None
            self._due(question, now + self._ask_again_s)

    def busy(self, id_: str, now: float, retry_after_s: float) -> None:
        """The cloud asks to be offered it again after that time."""
        if (question := self._open.get(id_)) is not None:
            self._due(question, now + retry_after_s)

    def hurry(self, now: float, id_: str = "") -> None:
        """A person wants one, or all of them, offered now."""
        for question in [self._open[id_]] if id_ else self._open.values():
            if not question.in_flight:
                self._due(question, now)

    def connected(self, now: float) -> None:
        """A new connection: the broker may have forgotten what it held for either side."""
        for question in self._open.values():
            question.in_flight = False
            self._due(question, now)

    def heard(self, now: float) -> None:
        """A worker has spoken. After a silence, what waits for a receipt need not wait for its timer."""
        silence_s, self._heard_at = now - self._heard_at, now
        if silence_s > 2 * self._receipt_timer_s:
            for question in self._open.values():
                if not question.received and not question.in_flight and question.offers > 1:
                    self._due(question, now)

    def _due(self, question: Question, at: float) -> None:
        question.due_at = at
        heapq.heappush(self._by_due, (at, question.id))
        self._sweep()

    def _sweep(self) -> None:
        """Rebuilds a heap that is mostly out of date: neither a flood of replies nor a busy day may fill the memory."""
        if len(self._by_due) > 2 * len(self._open) + _SPARE_ENTRIES:
            self._by_due = [(each.due_at, each.id) for each in self._open.values() if not each.in_flight]
            heapq.heapify(self._by_due)
