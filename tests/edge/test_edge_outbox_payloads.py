"""Payload by digest, shared by entries that come and go at the same time; and what is counted of it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest
from edge_entries import HandClock, make_entry, until

from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Expired
from outrider_edge.outbox.payloads import PayloadFiles, PayloadMemory, Payloads
from outrider_edge.ports import OutboxEntry, OutboxFull, OutboxPart
from outrider_wire.limits import INLINE_BYTES

LARGE = b"\x01" * (INLINE_BYTES + 1)
DIGEST = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    outbox = Outbox(folder=tmp_path, clock=HandClock().clock, flush_s=0.02)
    await outbox.start()
    yield outbox
    await outbox.stop()


async def ask(outbox: Outbox, entry: OutboxEntry) -> str:
    outbox.arrived(entry.task)
    await outbox.put(entry)
    return entry.id


async def test_what_is_let_go_late_spares_an_entry_that_was_kept_in_the_meantime(outbox: Outbox) -> None:
    """The same bytes come again: held before the first entry's end, committed after it, and only then the disk's thread is free."""
    first, again = await ask(outbox, make_entry(LARGE)), make_entry(LARGE)
    writer_free, disk_free = Event(), Event()
    gate = outbox.shelves.disk.writer.run(lambda _: writer_free.wait())
    settled = asyncio.ensure_future(outbox.settle(first, Expired()))
    await asyncio.sleep(0)
    outbox.arrived(again.task)
    put = outbox.put(again)
    await asyncio.sleep(0.05)
    outbox._disk_work.submit(disk_free.wait)
    writer_free.set()
    await asyncio.gather(gate, settled, put)
    await asyncio.sleep(0.05)
    disk_free.set()
    await asyncio.sleep(0.05)
    assert outbox.open_blob(DIGEST) is not None
    await outbox.settle(again.id, Expired())
    await until(lambda: outbox.open_blob(DIGEST) is None)


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_held_payload_is_spared(tmp_path: Path, kind: str) -> None:
    place: Payloads = PayloadFiles(folder=tmp_path) if kind == "files" else PayloadMemory()
    place.hold(DIGEST, LARGE)
    place.hold(DIGEST, LARGE)
    place.release(DIGEST)
    place.drop(DIGEST)
    assert place.open(DIGEST) is not None
    place.release(DIGEST)
    place.drop(DIGEST)
    assert place.open(DIGEST) is None


async def test_what_was_let_go_just_before_the_end_is_gone(tmp_path: Path) -> None:
    outbox = Outbox(folder=tmp_path, clock=HandClock().clock, flush_s=60.0)
    await outbox.start()
    outbox.received(await ask(outbox, make_entry(LARGE)))
    await outbox.stop()
    assert not any((tmp_path / "payload").iterdir())


async def test_equal_full_forms_are_counted_once_and_leave_no_sum_behind(outbox: Outbox) -> None:
    entry = make_entry()
    full = OutboxFull(media_type="image/png", data=LARGE)
    parts = [OutboxPart(name=name, modality="image", media_type="image/png", data=b"first", full=full) for name in "ab"]
    id_ = await ask(outbox, make_entry(id_=entry.id, parts=parts))
    assert outbox.view().bytes == len(LARGE) + 10
    await outbox.settle(id_, Expired())
    assert (outbox.view().count, outbox.view().bytes) == (0, 0)


async def test_rows_of_an_empty_payload_go_too(outbox: Outbox) -> None:
    id_ = await ask(outbox, make_entry(b""))
    await outbox.settle(id_, Expired())
    run = outbox.shelves.disk.writer.run
    assert await run(lambda store: store._sql.execute("SELECT count(*) FROM part").fetchone()) == (0,)


async def test_what_lies_in_memory_counts_its_offers(outbox: Outbox) -> None:
    kept, durable = await ask(outbox, make_entry(durability="memory")), await ask(outbox, make_entry())
    for id_ in (kept, kept, durable):
        outbox.offered(id_)
    await asyncio.sleep(0.1)
    memory = (await outbox.shelves.page(after=0, limit=9, memory=True)).entries
    disk = (await outbox.shelves.page(after=0, limit=9)).entries
    assert [(one.id, one.delivery, one.offers) for one in memory] == [(kept, "offered", 2)]
    assert [(one.id, one.delivery, one.offers) for one in disk] == [(durable, "offered", 1)]
