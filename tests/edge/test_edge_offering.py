"""Questions between the outbox and the broker; the test is the broker and the cloud."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge_entries import HandClock, HandLine, make_answer, make_entry, new_id, until

from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.ports import OutboxEntry
from outrider_edge.uplink.escalations import envelope_of, offer_of
from outrider_edge.uplink.offering import Offering
from outrider_wire.codec import encode
from outrider_wire.errors import RuleRefusalError
from outrider_wire.limits import INLINE_BYTES, MESSAGE_BYTES
from outrider_wire.messages import Receipt, Refusal
from outrider_wire.report import Account, AnswerReport


class Bench:
    """One device's offering, started as often as a test likes over the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hand = HandClock()
        self.line = HandLine()
        self.finals: list[AnswerReport] = []

    async def start(self, **limits: int) -> None:
        self.outbox = Outbox(
            folder=self.folder, clock=self.hand.clock, flush_s=0.02, bounds=DEFAULT_BOUNDS._replace(**limits)
        )
        await self.outbox.start()
        self.offering = Offering(outbox=self.outbox, line=self.line, clock=self.hand.clock)

        async def on_final(report: AnswerReport) -> None:
            self.finals.append(report)

        self.offering.listen(on_final)
        await self.offering.start()

    async def stop(self) -> None:
        await self.offering.stop()
        await self.outbox.stop()

    async def ask(self, entry: OutboxEntry | None = None) -> str:
        entry = entry or make_entry()
        self.outbox.arrived(entry.task)
        await self.offering.escalate(entry)
        return entry.id

    async def pass_time(self, seconds: float) -> None:
        """Run time passes; the pump is woken as its own timer would."""
        self.hand.now += seconds
        self.offering.on_receipt(Receipt(id=new_id()))
        await asyncio.sleep(0.05)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "outbox")
    await bench.start()
    yield bench
    await bench.stop()
    assert bench.outbox.account().adds_up


async def test_an_escalation_is_offered_at_once_with_its_bytes_inside(bench: Bench) -> None:
    entry = make_entry(b"pixels")
    await bench.ask(entry)
    await until(lambda: bench.line.offers)
    [offer] = bench.line.offers
    assert (offer.id, offer.offer, offer.parts[0].inline) == (entry.id, 1, b"pixels")


async def test_an_answer_settles_it_once_and_a_repeat_changes_nothing(bench: Bench) -> None:
    id_ = await bench.ask()
    await asyncio.gather(*(bench.offering.on_answer(make_answer(id_, label)) for label in ("blue", "green")))
    await bench.offering.on_answer(make_answer(id_, "red"))
    assert [(report.id, report.label) for report in bench.finals] == [(id_, "blue")]
    assert bench.offering.counts["repeated"] == 2
    assert bench.outbox.account() == Account(received=1, cloud=1)


async def test_an_answer_that_nobody_asked_for_is_counted_and_ignored(bench: Bench) -> None:
    await bench.offering.on_answer(make_answer(new_id()))
    assert bench.offering.counts["unknown"] == 1
    assert bench.finals == []


async def test_an_answer_with_a_foreign_label_leaves_the_question_open(bench: Bench) -> None:
    id_ = await bench.ask()
    await bench.offering.on_answer(make_answer(id_, "purple"))
    assert bench.offering.counts["unfit"] == 1
    await bench.offering.on_answer(make_answer(id_))
    assert [report.label for report in bench.finals] == ["blue"]


async def test_what_has_no_receipt_is_offered_again_with_less_time_left(bench: Bench) -> None:
    await bench.ask(make_entry(answer_within_ms=2_000, keep_for_s=100))
    await until(lambda: bench.line.offers)
    await bench.pass_time(6)
    await until(lambda: len(bench.line.offers) >= 2)
    assert [(offer.offer, offer.answer_within_ms, offer.keep_for_s) for offer in bench.line.offers] == [
        (1, 2_000, 100),
        (2, 0, 94),
    ]


async def test_after_a_receipt_it_is_asked_after_without_its_bytes(bench: Bench) -> None:
    id_ = await bench.ask()
    bench.offering.on_receipt(Receipt(id=id_))
    await asyncio.sleep(0.1)
    bench.hand.now += 30
    bench.offering.on_receipt(Receipt(id=new_id()))
    await asyncio.sleep(0.05)
    assert len(bench.line.offers) == 1
    await bench.pass_time(31)
    await until(lambda: len(bench.line.offers) >= 2)
    assert [offer.parts[0].inline for offer in bench.line.offers] == [b"pixels", None]


async def test_a_restart_offers_everything_that_is_open(bench: Bench) -> None:
    ids = [await bench.ask() for _ in range(3)]
    bench.offering.on_receipt(Receipt(id=ids[0]))
    await bench.offering.on_answer(make_answer(ids[1]))
    await bench.stop()
    bench.line.offers.clear()
    await bench.start()
    await until(lambda: len(bench.line.offers) == 2)
    assert {offer.id: offer.parts[0].inline for offer in bench.line.offers} == {ids[0]: None, ids[2]: b"pixels"}


async def test_while_the_broker_is_away_inputs_are_kept_and_offered_when_it_is_back(bench: Bench) -> None:
    bench.line.connected = False
    ids = [await bench.ask() for _ in range(100)]
    assert bench.line.offers == []
    bench.line.connected = True
    bench.offering.connected()
    await until(lambda: len(bench.line.offers) == 100)
    assert sorted(offer.id for offer in bench.line.offers) == ids


@pytest.mark.parametrize("size", [10, INLINE_BYTES + 1], ids=["small", "large"])
async def test_what_a_caller_left_behind_is_asked_all_the_same(bench: Bench, size: int) -> None:
    bench.line.connected = False
    entry = make_entry(b"x" * size)
    bench.outbox.arrived(entry.task)
    asking = asyncio.create_task(bench.offering.escalate(entry))
    await asyncio.sleep(0)
    asking.cancel()
    await until(lambda: bench.outbox.account() == Account(received=1, pending=1) and entry.id in bench.offering)
    bench.line.connected = True
    bench.offering.connected()
    await until(lambda: bench.line.offers)


async def test_what_nobody_wants_any_more_expires(bench: Bench) -> None:
    bench.line.connected = False
    id_ = await bench.ask(make_entry(keep_for_s=10))
    await bench.pass_time(11)
    await until(lambda: bench.finals)
    [report] = bench.finals
    assert (report.id, report.state, report.label) == (id_, "expired", "red")
    await bench.offering.on_answer(make_answer(id_))
    assert bench.outbox.account() == Account(received=1, expired=1, uncertified=1)


async def test_a_busy_cloud_gets_it_again_after_the_time_it_asked_for(bench: Bench) -> None:
    id_ = await bench.ask()
    await bench.offering.on_refusal(Refusal(id=id_, reason="busy", retry_after_s=20))
    await bench.pass_time(19)
    assert len(bench.line.offers) == 1
    await bench.pass_time(7)
    await until(lambda: len(bench.line.offers) >= 2)
    assert len(bench.line.offers) == 2
    assert bench.finals == []


async def test_a_final_refusal_leaves_the_local_answer_standing(bench: Bench) -> None:
    id_ = await bench.ask()
    await bench.offering.on_refusal(Refusal(id=id_, reason="unknown_task", detail="no such task"))
    [report] = bench.finals
    assert (report.state, report.label, report.answered_by) == ("refused", "red", "edge")
    assert "unknown_task" in report.note
    assert bench.outbox.account() == Account(received=1, refused=1, uncertified=1)


async def test_an_audits_answer_is_told_to_nobody(bench: Bench) -> None:
    id_ = await bench.ask(make_entry(audit=True))
    await bench.offering.on_answer(make_answer(id_))
    assert bench.finals == []
    assert bench.offering.counts["answered"] == 1
    assert bench.outbox.account() == Account(received=1, edge=1, audited=1)


async def test_a_full_outbox_offers_nothing(bench: Bench) -> None:
    await bench.stop()
    await bench.start(max_count=1)
    kept = await bench.ask()
    with pytest.raises(RuleRefusalError):
        await bench.ask(make_entry(probabilities=[0.6, 0.3, 0.1]))
    bench.outbox.count_local("colours", "edge", uncertified=True)
    assert {offer.id for offer in bench.line.offers} == {kept}


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_a_large_part_is_offered_by_digest_and_lent_until_the_receipt(bench: Bench, durability: str) -> None:
    large = b"\x07" * (INLINE_BYTES + 1)
    digest = hashlib.sha256(large).hexdigest()
    id_ = await bench.ask(make_entry(b"pixels", large, durability=durability))
    await until(lambda: bench.line.offers)
    assert [part.inline for part in bench.line.offers[0].parts] == [b"pixels", None]
    held = bench.offering.open_blob(digest)
    assert (held.read_bytes() if isinstance(held, Path) else held) == large
    bench.offering.on_receipt(Receipt(id=id_))
    await until(lambda: bench.offering.open_blob(digest) is None)


async def test_a_small_part_that_no_packet_can_carry_is_lent_too(bench: Bench) -> None:
    bench.line.packet_limit = 8_000
    parts = [bytes([number]) * 3_000 for number in (1, 2)]
    id_ = await bench.ask(make_entry(*parts))
    await until(lambda: bench.line.offers)
    [offer] = bench.line.offers
    assert [part.inline for part in offer.parts] == [parts[0], None]
    assert bench.offering.open_blob(offer.parts[1].sha256) == parts[1]
    bench.offering.on_receipt(Receipt(id=id_))
    assert bench.offering.open_blob(offer.parts[1].sha256) is None


def test_the_largest_offer_fits_the_packet_limit() -> None:
    entry = make_entry(*[bytes([number]) * INLINE_BYTES for number in range(16)])
    data = [part.data for part in entry.parts]
    for limit in (0, 6_000, 128 * 1024, MESSAGE_BYTES, 1 << 28):
        offer = offer_of(envelope_of(entry), data, age_s=0.0, offer=1, packet_limit=limit)
        assert len(encode(offer)) <= max(min(limit, MESSAGE_BYTES), 8_000)
