"""One value of the outbox's file that is not what was written: whichever it is, the device starts, and goes on."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from edge_entries import HandClock, make_entry

from outrider_edge.outbox import mending, opening
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Expired
from outrider_edge.ports import OutboxFull, OutboxPart
from outrider_wire.errors import OperatorSetupError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.monitor import Monitor

LARGE = b"\x01" * (INLINE_BYTES + 1)
ROTTEN = {
    "a time": "UPDATE meta SET value = '9x9' WHERE name = 'seen_s'",
    "no time at all": "UPDATE meta SET value = 'nan' WHERE name = 'seen_s'",
    "a text": "UPDATE meta SET value = CAST(x'39ff39' AS TEXT) WHERE name = 'seen_s'",
    "a watch": "UPDATE monitor SET state = x'c1'",
    "a count": "UPDATE tally SET value = 'x1' WHERE name = 'received'",
}


async def opened(folder: Path, boot_id: str = "boot-1") -> Outbox:
    outbox = Outbox(folder=folder, clock=HandClock(boot_id=boot_id).clock, flush_s=0.02)
    await outbox.start()
    return outbox


async def ask(outbox: Outbox) -> str:
    entry = make_entry()
    outbox.arrived(entry.task)
    await outbox.put(entry)
    return entry.id


@pytest.mark.parametrize("what", ROTTEN)
async def test_a_damaged_value_is_mended_at_the_start(tmp_path: Path, what: str) -> None:
    outbox = await opened(tmp_path)
    outbox.watches.watch("colours", "a certificate", Monitor(risk=0.05, alpha=1e-3))
    id_ = await ask(outbox)
    await outbox.stop()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        assert file.execute(ROTTEN[what]).rowcount == 1
        file.commit()
    outbox = await opened(tmp_path, boot_id="boot-2")
    async with asyncio.timeout(60):
        assert await ask(outbox)
        assert len(await outbox.open_rows()) == 2
        assert len(outbox.view().damaged) == 1
        await asyncio.sleep(0.05)
        assert outbox.account().pending == 2
        assert outbox.account().adds_up
        await outbox.settle(id_, Expired())
        await outbox.stop()
    outbox = await opened(tmp_path, boot_id="boot-3")
    assert outbox.view().mended == 0
    await outbox.stop()


async def test_two_damaged_values_found_in_use_stop_nothing(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    bad, good = await ask(outbox), await ask(outbox)
    for statement in ("UPDATE tally SET value = 'x1'", "UPDATE input SET report = x'c1' WHERE seq = 1"):
        await outbox.shelves.disk.writer.run(lambda store, it=statement: store._sql.execute(it) and None)
    async with asyncio.timeout(60):
        await outbox.settle(bad, Expired())
        assert [row.id for row in await outbox.open_rows()] == [good]
        await outbox.stop()


async def test_a_mender_that_fails_in_a_way_nobody_thought_of_is_a_fault_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = await opened(tmp_path)
    bad = await ask(outbox)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(opening, "mend", fails)
    run = outbox.shelves.disk.writer.run
    await run(lambda store: store._sql.execute("UPDATE input SET report = x'c1'") and None)
    async with asyncio.timeout(60):
        with pytest.raises(OperatorSetupError) as refused:
            await outbox.settle(bad, Expired())
        assert refused.value.reason == "outbox_unwritable"
        assert outbox.view().fault
        await outbox.stop()


async def test_a_full_form_does_not_stand_in_for_the_first_one_that_was_lost(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    full = OutboxFull(media_type="image/png", data=LARGE)
    part = OutboxPart(name="image", modality="image", media_type="image/png", data=b"first", full=full)
    entry = make_entry(parts=[part])
    outbox.arrived(entry.task)
    await outbox.put(entry)
    await outbox.stop()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        assert file.execute("UPDATE part SET data = x'00' WHERE position = 0").rowcount == 1
        file.commit()
    mending.mend(tmp_path / "outbox.db", "a test")
    outbox = await opened(tmp_path)
    report = await outbox.find(entry.id)
    assert report is not None
    assert (report.state, report.note) == ("expired", f"given up: {mending.LOST}")
    await outbox.stop()
