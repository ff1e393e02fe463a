"""Which questions are in the book, and which wait in the outbox. Knows the window, not when a question is due.

Every open question is in one of these places: in the book; parked (the cloud has stored it, and the book let it go); or behind,
after the place up to which the file has been taken up. What is parked comes back with the next round over the file, which
begins `ask_again_s` after the last one began.
"""

import math

from outrider_edge.outbox.shelves import Shelves
from outrider_edge.outbox.waiting import Waiting
from outrider_edge.uplink.offers import OfferBook, Question

WINDOW = 2_048
"""Questions that are taken up into memory. As many again may come directly: what has just been asked does not wait behind an
outage."""
AT_ONCE = 512


class Backlog:
    """Takes questions up from the outbox into the book, as there is room.

    Args:
        shelves: where they wait.
        book: where they go.
        window: how many it holds.
        ask_again_s: how long a round over the file takes at least.
    """

    def __init__(self, *, shelves: Shelves, book: OfferBook, window: int, ask_again_s: float) -> None:
        self._shelves = shelves
        self._book = book
        self._window = window
        self._ask_again_s = ask_again_s
        self._behind = True
        self._taking = False
        self._parked = False
        self._round_at = 0.0

    @property
    def has_room(self) -> bool:
        """Whether the book takes what has just been asked."""
        return len(self._book) < 2 * self._window

    @property
    def is_level(self) -> bool:
        """Whether nothing is behind, nor just being taken up."""
        return not (self._behind or self._taking)

    @property
    def again_at(self) -> float:
        """When the next round begins, in run time; infinity: nothing is parked."""
        return self._round_at + self._ask_again_s if self._parked and not self._behind else math.inf

    def arrived(self, question: Question) -> None:
        """A new question is durable: it is in the book now, or the file keeps it for later."""
        if self.has_room:
            self._book.add(question)
        else:
            self._behind = True

    def rewind(self, now: float) -> None:
        """Another round at once: from the oldest on."""
        self._shelves.rewind()
        self._behind, self._parked, self._round_at = True, False, now

    def wants(self, now: float) -> bool:
        """Whether `take_up` is to be called now; then it is under way until `taken_up`."""
        if self._taking:
            return False
        if now >= self.again_at:
            self.rewind(now)
        self._taking = self._behind and self._makes_room(now)
        return self._taking

    async def take_up(self, now: float) -> None:
        """Brings the book some of what is behind.

        Raises:
            OperatorSetupError: the file cannot be read now.
        """
        limit = min(self._turn, self._window - len(self._book))
        if limit <= 0:  # what came since `wants` has taken the room
            return
        self._behind = False  # what comes from now on may be missing from what is found
        try:
            found = await self._shelves.next_open(limit)
        except BaseException:  # cancelled too: nothing was taken up
            self._behind = True
            raise
        self._behind = self._behind or len(found) == limit
        for one in found:
            if one.id not in self._book:
                self._book.add(_question(one, now))

    def taken_up(self) -> None:
        """`take_up` has ended, well or not."""
        self._taking = False

    @property
    def _turn(self) -> int:
        return min(AT_ONCE, self._window)

    def _makes_room(self, now: float) -> bool:
        """Whether some fit in; for them, what the cloud has stored is parked."""
        lacking = self._turn - (self._window - len(self._book))
        if lacking > 0 and self._book.park(now, lacking):
            self._parked = True
        return self._window - len(self._book) >= max(1, self._turn // 4)


def _question(one: Waiting, now: float) -> Question:
    return Question(id=one.id, due_at=now, received=one.received, offers=one.offers)
