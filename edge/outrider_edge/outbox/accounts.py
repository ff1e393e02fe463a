"""The account of every task, live in memory: what arrived, how it ended, and what of that is not on the disk yet. No I/O.

An input is in flight from `arrived` until it ends here or its escalation is durable; until then it is in no durable sum, so
that the account on the disk adds up at every moment.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from msgspec.structs import asdict

from outrider_wire.report import Account, account_from

Counts = Mapping[str, int]


class Accounts:
    """Counters by task."""

    def __init__(self) -> None:
        self._tally: dict[str, Counter[str]] = defaultdict(Counter)
        self._in_flight: Counter[str] = Counter()
        self._unwritten: dict[str, Counter[str]] = defaultdict(Counter)
        self._writing: dict[str, Counter[str]] = defaultdict(Counter)

    def load(self, *held: Mapping[str, Account]) -> None:
        """Takes up what the shelves hold now; what is yet to be written is counted besides."""
        self._tally = defaultdict(Counter)
        for accounts in held:
            for task, account in accounts.items():
                self._tally[task].update(asdict(account))
        for counts in (self._unwritten, self._writing):
            for task, values in counts.items():
                self._tally[task].update(values)

    def arrived(self, task: str) -> None:
        """An input is here."""
        self._in_flight[task] += 1

    def ended_here(self, task: str, counts: Counts) -> None:
        """An input in flight has ended without the cloud; ``counts`` are yet to be written."""
        self._in_flight[task] -= 1
        tally, unwritten = self._tally[task], self._unwritten[task]
        for name, more in counts.items():  # `Counter.update` takes several times as long, and this is every input's
            tally[name] += more
            unwritten[name] += more

    def kept(self, task: str, counts: Counts) -> None:
        """An input in flight is durable in the outbox; ``counts`` were written with it."""
        self._in_flight[task] -= 1
        self._tally[task].update(counts)

    def settled(self, task: str, counts: Counts) -> None:
        """A pending input has its terminal state; ``counts`` were written with it."""
        self._tally[task].update(counts)
        self._tally[task]["pending"] -= 1

    def take_unwritten(self) -> dict[str, Counter[str]]:
        """What is to be written now; `written` or `not_written` says how that went."""
        counts, self._unwritten = self._unwritten, defaultdict(Counter)
        _add(self._writing, counts)
        return counts

    def written(self, counts: Mapping[str, Counts]) -> None:
        """It is on the disk."""
        for task, values in counts.items():
            self._writing[task].subtract(values)

    def not_written(self, counts: Mapping[str, Counts]) -> None:
        """It could not be: next time."""
        self.written(counts)  # no more under way
        _add(self._unwritten, counts)

    def of(self, task: str = "") -> Account:
        """One task's account, or the sum of all."""
        counts: Counter[str] = Counter()
        for name in [task] if task else self._tally.keys() | self._in_flight.keys():
            counts.update(self._tally.get(name, {}))
            counts.update({"received": self._in_flight[name], "pending": self._in_flight[name]})
        return account_from(counts)


def _add(to: dict[str, Counter[str]], counts: Mapping[str, Counts]) -> None:
    for task, values in counts.items():
        to[task].update(values)
