"""The auditor: four books of the same inputs, and what of them does not agree. Pure.

The callers wrote down what they were told, each device and the cloud what they did, the large model what it was paid for. An
escalation that was accepted must end once, as answered, expired or refused with a reason; `lost` and `duplicated` are sentences,
one for each that did not.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msgspec import Struct

from outrider.sim.records import Asked, Bill, right_answer
from outrider_wire.report import TERMINAL, Account

_ENDS = ("cloud", "expired", "refused")


@dataclass(frozen=True, kw_only=True)
class DeviceBook:
    """What one device has written."""

    rows: Mapping[str, str]
    """Id → state, of every input that it has escalated."""
    account: Account
    """As its API tells it."""
    tally: Account
    """As its file has it, ``pending`` aside."""


@dataclass(frozen=True, kw_only=True)
class CloudBook:
    """What the cloud has written."""

    rows: Mapping[tuple[str, str], str]
    """(device, id) → state."""
    account: Account


@dataclass(frozen=True, kw_only=True)
class Books:
    """All four."""

    asked: Sequence[Asked]
    devices: Mapping[str, DeviceBook]
    cloud: CloudBook
    bills: Sequence[Bill]
    outages: Sequence[tuple[float, float]]
    """When the cloud was dead or starved: what it paid for then it could not keep, and may pay again."""


class Verdict(Struct, kw_only=True):
    """What the books say together."""

    accepted: int = 0
    answered: int = 0
    expired: int = 0
    refused: int = 0
    """With a reason, as the device tells it."""
    in_doubt: int = 0
    """Calls that ended without a report."""
    lost: list[str] = []
    duplicated: list[str] = []


def audit(books: Books, labels: Sequence[str]) -> Verdict:
    """Holds the books against each other.

    Args:
        labels: of the task, in its order.
    """
    verdict = Verdict(in_doubt=sum(not one.id for one in books.asked))
    states = [state for book in books.devices.values() for state in book.rows.values()]
    verdict.accepted = len(states)
    verdict.answered, verdict.expired, verdict.refused = (states.count(end) for end in _ENDS)
    for one in books.asked:
        _look_at_caller(one, books, labels, verdict)
    for name, book in books.devices.items():
        _look_at_device(name, book, books, verdict)
    _look_at_cloud(books, verdict)
    _look_at_bills(books, verdict)
    return verdict


def _look_at_caller(one: Asked, books: Books, labels: Sequence[str], verdict: Verdict) -> None:
    """What a caller was told was true, and stays so."""
    if not one.accepted:
        return
    who = f"input {one.number} ({one.id})"
    ends = [told for told in one.told if told[0] in TERMINAL]
    if not ends:
        verdict.lost.append(f"{who} was accepted, and is {one.state} to this day")
    elif one.id not in books.devices[one.device].rows:
        verdict.lost.append(f"{who} was accepted, and the device has not written it down")
    elif ends[0] == ("cloud", None) or (ends[0][0] == "cloud" and ends[0][1] != right_answer(one.number, labels)):
        verdict.lost.append(f"{who} was answered {ends[0][1]}, which is another input's answer")
    if len(set(ends)) > 1:
        verdict.duplicated.append(f"{who} ended more than once: {ends}")


def _look_at_device(name: str, book: DeviceBook, books: Books, verdict: Verdict) -> None:
    """Every input in one state, each counted once, and none that nobody asked."""
    known = {one.id for one in books.asked if one.device == name}
    for id_, state in book.rows.items():
        if state == "pending" and id_ not in known:
            verdict.lost.append(f"{name}: {id_} is pending to this day")
    doubtful = sum(not one.id for one in books.asked if one.device == name)
    at_the_cloud = {id_ for device, id_ in books.cloud.rows if device == name}  # the first offer overtakes the commit
    strangers = (book.rows.keys() | at_the_cloud) - known
    if len(strangers) > doubtful:
        verdict.duplicated.append(f"{name}: {len(strangers)} inputs that no caller knows, {doubtful} calls in doubt")
    if not book.account.adds_up:
        verdict.lost.append(f"{name}: its account does not add up: {book.account}")
    rows = Counter(book.rows.values())
    for end in ("cloud", "expired"):
        counted = getattr(book.tally, end)
        if counted > rows[end]:
            verdict.duplicated.append(f"{name}: counted {counted} as {end}, and holds {rows[end]}")
        elif counted < rows[end]:
            verdict.lost.append(f"{name}: counted {counted} as {end}, and holds {rows[end]}")


def _look_at_cloud(books: Books, verdict: Verdict) -> None:
    """The cloud's account adds up, and it knows every answer that a device has."""
    cloud = books.cloud
    if not cloud.account.adds_up:
        verdict.lost.append(f"the cloud's account does not add up: {cloud.account}")
    if cloud.account.received > len(cloud.rows):
        verdict.duplicated.append(f"the cloud counted {cloud.account.received} inputs, and holds {len(cloud.rows)}")
    for name, book in books.devices.items():
        for id_, state in book.rows.items():
            if state == "cloud" and cloud.rows.get((name, id_)) != "answered":
                verdict.lost.append(f"{name}: {id_} has an answer that the cloud knows nothing of")


def _look_at_bills(books: Books, verdict: Verdict) -> None:
    """One bill an input, unless the cloud died or starved between asking and keeping the answer."""
    by_number: dict[int, list[float]] = defaultdict(list)
    for bill in books.bills:
        by_number[bill.number].append(bill.at_s)
    for number, times in by_number.items():
        for first, second in pairwise(times):
            if not any(began < second and ended > first for began, ended in books.outages):
                verdict.duplicated.append(f"input {number} was paid for twice, {second - first:.1f} s apart")
