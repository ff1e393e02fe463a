"""A process that is killed in the middle of its puts: what it was told is durable is there, and the account adds up."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_edge.outbox.outbox import Outbox

CHILD = Path(__file__).parents[1] / "edge_outbox_child.py"


@pytest.mark.parametrize("lines", [1, 150])
async def test_nothing_that_was_reported_done_is_lost_by_a_kill(tmp_path: Path, lines: int) -> None:
    folder = tmp_path / "outbox"
    told = await asyncio.to_thread(_run_and_kill, folder, lines, 1_000_000)
    put = {line.split()[1] for line in told if line.startswith("put ")}
    settled = {line.split()[1] for line in told if line.startswith("settled ")}
    assert len(put) >= lines // 2

    outbox = Outbox(folder=folder)
    await outbox.start()
    rows = await outbox.open_rows()
    assert put - settled <= {row.id for row in rows} | await _answered(outbox, put - settled)
    assert settled == await _answered(outbox, settled)
    for row in rows:
        for part in row.envelope.parts[1:]:
            payload = outbox.open_blob(part.sha256)
            assert isinstance(payload, Path)
            assert hashlib.sha256(payload.read_bytes()).hexdigest() == part.sha256
    account = outbox.account()
    assert account.adds_up
    assert account.pending == len(rows)
    assert account.cloud >= len(settled)
    assert outbox.account() == (await outbox.accounts_on_disk())["colours"]
    await outbox.stop()


async def test_a_kill_while_entries_make_way_leaves_bounds_and_account_as_they_should_be(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    told = await asyncio.to_thread(_run_and_kill, folder, 200, 8)
    outbox = Outbox(folder=folder)
    await outbox.start()
    account, view = outbox.account(), outbox.view()
    assert account.adds_up
    assert account.pending == view.count <= 8
    assert account.expired >= len([line for line in told if line.startswith("put ")]) / 3
    assert outbox.account() == (await outbox.accounts_on_disk())["colours"]
    files = {path.name for path in (folder / "payload").iterdir()}
    assert files <= {part.sha256 for row in await outbox.open_rows() for part in row.envelope.parts}
    await outbox.stop()


def _run_and_kill(folder: Path, lines: int, max_count: int) -> list[str]:
    """What the child said before it was killed, right after that many lines."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), str(max_count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.stdout is not None
    try:
        told = [child.stdout.readline() for _ in range(lines)]
    finally:
        child.kill()
        told += child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
    return [line.strip() for line in told if line.strip()]


async def _answered(outbox: Outbox, ids: set[str]) -> set[str]:
    reports = [await outbox.find(id_) for id_ in ids]
    return {report.id for report in reports if report is not None and report.state == "cloud"}
