"""A whole agent, as a process, whose disk is full or read-only: it answers, says what is wrong, and recovers by itself."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from edge_agents import SERVE, serve_environment, write_config
from small_disk import small_disk

from factory import unsure
from outrider import AsyncClient
from outrider_wire.report import AnswerReport

BROKER = '[broker]\nurl = "mqtt://127.0.0.1:9"\n'


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[AsyncClient]:
    """An agent of that configuration; it ends in good order."""
    command = [sys.executable, "-c", SERVE, str(config)]
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=subprocess.PIPE, text=True, env=serve_environment()
    )
    assert process.stdout is not None
    try:
        address = await asyncio.to_thread(process.stdout.readline)
        assert address, f"it ended with {process.wait(5)}"
        async with AsyncClient(address.split(",")[0].strip()) as client:
            yield client
        process.terminate()
        assert "ended" in await asyncio.to_thread(process.stdout.read)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def ask(client: AsyncClient) -> AnswerReport:
    return await client.ask("colours", {"image": unsure(), "question": "what colour is it?"}, wait=False)


@pytest.mark.parametrize("fault", ["full", pytest.param("read-only", marks=pytest.mark.slow)])
async def test_an_agent_on_a_disk_that_takes_nothing_starts_answers_says_so_and_recovers(
    tmp_path: Path, fault: str
) -> None:
    write_config(tmp_path / "site", extra=f"{BROKER}[outbox]\nmin_free_bytes = 0\n")
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        shutil.copytree(tmp_path / "site", disk.path / "site")
        config = disk.path / "site" / "edge.toml"
        async with serving(config) as client:
            assert (await ask(client)).state == "pending"
        disk.fill() if fault == "full" else disk.read_only(True)
        async with serving(config) as client:
            states = [(await ask(client)).state for _ in range(40)]
            assert states[-1] == "edge"
            assert (await client.status())["outbox"]["fault"]
            disk.empty() if fault == "full" else disk.read_only(False)
            async with asyncio.timeout(20):
                while (await client.status())["outbox"]["fault"]:  # noqa: ASYNC110 - another process rings no bell
                    await asyncio.sleep(0.1)
                while (await client.account()).received != 41:  # noqa: ASYNC110 - as above: the file's account is read
                    await asyncio.sleep(0.1)
            assert (await ask(client)).state == "pending"
            account = await client.account()
            assert account.adds_up
            assert account.received == 42
        async with serving(config) as client:
            assert await client.account() == account
