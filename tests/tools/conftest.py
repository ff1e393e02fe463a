"""The real console script, run as a user would: own process, own folder. And servers for it to talk to."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web

SCRIPT = Path(sys.executable).parent / "outrider"


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


class Served(NamedTuple):
    """A server in a thread of its own."""

    url: str
    unix: str


@pytest.fixture
def outrider(tmp_path: Path) -> Run:
    """``outrider("config", "check", file, OUTRIDER_EDGE_DEVICE="cam-1")``: run in the test's folder."""

    def run(*arguments: object, **variables: str) -> Ran:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
        done = subprocess.run(
            [SCRIPT, *map(str, arguments)],
            cwd=tmp_path,
            env={**clean, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[web.Application], Served]]:
    """Serves an aiohttp application from a thread of its own, on a free port and on a Unix socket."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runners: list[web.AppRunner] = []

    async def open_(app: web.Application) -> Served:
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        path = tmp_path / f"{len(runners)}.sock"
        await web.UnixSite(runner, str(path)).start()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return Served(f"http://127.0.0.1:{runner.addresses[-1][1]}", f"unix:{path}")

    async def close() -> None:
        for runner in runners:
            await runner.cleanup()

    yield lambda app: asyncio.run_coroutine_threadsafe(open_(app), loop).result(10)
    asyncio.run_coroutine_threadsafe(close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
