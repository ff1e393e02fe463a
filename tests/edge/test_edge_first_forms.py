"""The full form on the device: kept while the cloud may ask for it, over restarts, and gone once it needs no more."""

import hashlib
from pathlib import Path

import pytest
from edge_entries import HandClock, make_answer, make_entry, until
from msgspec.structs import replace

from outrider_edge.budget.budget import TaskBudget
from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.outbox.outcomes import Answered
from outrider_edge.ports import OutboxEntry, OutboxFull, OutboxPart, Pulled
from outrider_edge.uplink.escalations import envelope_of, pull_size
from outrider_edge.uplink.fulls import FullForms
from outrider_edge.uplink.offering import Offering
from outrider_wire.errors import RuleRefusalError
from outrider_wire.limits import MESSAGE_BYTES
from outrider_wire.messages import Escalation, Receipt
from outrider_wire.report import AnswerReport
from outrider_wire.task import Budget

FULL = b"all of it" * 100
DIGEST = hashlib.sha256(FULL).hexdigest()


class Bench:
    """A device's offering over one folder, started as often as a test likes; the test is the broker."""

    packet_limit = MESSAGE_BYTES

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock().clock
        self.connected = True
        self.offers: list[Escalation] = []
        self.finals: list[AnswerReport] = []

    async def offer(self, escalation: Escalation) -> bool:
        """As `outrider_edge.uplink.offering.Line.offer`."""
        self.offers.append(escalation)
        return True

    async def start(self) -> None:
        self.outbox = Outbox(folder=self.folder, clock=self.clock, flush_s=0.02)
        await self.outbox.start()
        self.offering = Offering(outbox=self.outbox, line=self, clock=self.clock)

        async def on_final(report: AnswerReport) -> None:
            self.finals.append(report)

        self.offering.listen(on_final)
        await self.offering.start()

    async def stop(self) -> None:
        await self.offering.stop()
        await self.outbox.stop()

    async def ask(self, entry: OutboxEntry) -> str:
        self.outbox.arrived(entry.task)
        await self.offering.escalate(entry)
        return entry.id


def first_entry(full: bytes = FULL, **fields: object) -> OutboxEntry:
    """An entry with a first form, and ``full`` behind it."""
    part = OutboxPart(
        name="image",
        modality="image",
        media_type="image/jpeg",
        data=b"first",
        full=OutboxFull(media_type="image/png", data=full),
    )
    return make_entry(parts=[part], **fields)


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_the_first_form_is_offered_with_the_full_one_beside_it(tmp_path: Path, durability: str) -> None:
    bench = Bench(tmp_path / "outbox")
    await bench.start()
    id_ = await bench.ask(first_entry(durability=durability))
    await until(lambda: bench.offers)
    [part] = bench.offers[0].parts
    assert part.inline == b"first" and part.unseen is not None
    assert (part.unseen.sha256, part.unseen.size, part.unseen.media_type) == (DIGEST, len(FULL), "image/png")
    found = bench.offering.open_blob(DIGEST)
    assert (found.read_bytes() if isinstance(found, Path) else found) == FULL
    bench.offering.on_receipt(Receipt(id=id_))
    await until(lambda: bench.offering.open_blob(DIGEST) is None)
    await bench.stop()


async def test_a_restart_before_the_receipt_loses_nothing_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "outbox")
    await bench.start()
    bench.connected = False
    id_ = await bench.ask(first_entry())
    await bench.stop()
    bench.connected = True
    await bench.start()
    await until(lambda: bench.offers)
    assert bench.offers[0].parts[0].inline == b"first"
    found = bench.offering.open_blob(DIGEST)
    assert isinstance(found, Path) and found.read_bytes() == FULL
    await bench.offering.on_answer(make_answer(id_, form="first"))
    await until(lambda: not found.exists())
    assert [report.form for report in bench.finals] == ["first"]
    await bench.stop()


async def test_its_bytes_count_against_the_bounds_until_they_go(tmp_path: Path) -> None:
    bounds = DEFAULT_BOUNDS._replace(max_bytes=len(FULL) + 10)
    outbox = Outbox(folder=tmp_path / "outbox", bounds=bounds, clock=HandClock().clock, flush_s=0.02)
    await outbox.start()
    entry = replace(first_entry(), why="requested")  # worth more than what comes
    outbox.arrived(entry.task)
    await outbox.put(entry, envelope_of(entry))
    with pytest.raises(RuleRefusalError, match="full"):
        await outbox.put(make_entry(b"pixels"))
    await outbox.settle(entry.id, Answered(make_answer(entry.id)))
    outbox.arrived("colours")
    await outbox.put(make_entry(b"pixels"))
    await outbox.stop()


async def test_a_pull_is_told_once_and_with_its_size(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "outbox")
    await bench.start()
    told: list[Pulled] = []
    bench.offering.listen_pulled(told.append)
    await bench.ask(first_entry())
    await until(lambda: bench.offers)
    for _ in range(3):
        bench.offering.open_blob(DIGEST)
    assert told == [Pulled(task="colours", size=len(FULL), audit=False)]
    await bench.stop()


def test_a_full_form_that_nobody_may_want_any_more_is_not_counted() -> None:
    one, two = envelope_of(first_entry()), envelope_of(first_entry())
    forms = FullForms()
    for envelope in (one, two):
        forms.offer(envelope)
    forms.close(two.id)
    assert forms.wanted(DIGEST) == Pulled(task="colours", size=len(FULL), audit=False)
    assert forms.wanted(DIGEST) is None
    forms.offer(two)
    forms.close(two.id)
    assert forms.wanted(DIGEST) is None


def test_pulled_bytes_are_spent_without_another_escalation() -> None:
    budget = TaskBudget(Budget(bytes_per_day=10_000, escalations_per_day=10), now=0.0, boot_id="b")
    budget.count_pulled(1.0, size=pull_size(9_000))
    assert (budget.view(2.0)["bytes_per_day"].spent, budget.view(2.0)["escalations_per_day"].spent) == (9_256, 0)
    budget.count_pulled(2.0, size=pull_size(9_000), audit=True)
    assert (budget.view(2.0)["bytes_per_day"].spent, budget.view(2.0)["bytes_per_day"].audits) == (9_256, 9_256)
    assert "spent" in budget.ask(3.0, gain=1.0, size=1_000)
