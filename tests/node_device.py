"""The device in Node.js as a child process: questions go in as lines, what happens to them comes out as lines."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from other_packages import node, packages

HERE = Path(__file__).parent / "other_language"
DOCS = HERE.parents[1] / "docs"


def installed(folder: Path) -> Path:
    """The script in a folder beside whose it finds its packages: Node.js looks for them from the script's own place."""
    found = packages()
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "device.mjs"
    script.write_bytes((HERE / "device.mjs").read_bytes())
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(found)
    return script


class NodeDevice:
    """``async with NodeDevice(tmp_path, broker_url) as device``; ended by SIGTERM, unless `kill` came before."""

    def __init__(
        self, folder: Path, url: str, *, name: str = "node-1", coding: str = "application/json", timer_s: float = 5.0
    ) -> None:
        self.said: list[dict[str, Any]] = []
        self._command = [
            *(node(), str(installed(folder)), "--broker", url, "--device", name, "--coding", coding),
            *("--document", str(DOCS / "asyncapi.json"), "--folder", str(folder / "spool"), "--timer", str(timer_s)),
        ]
        self._log = folder / "node.log"
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: what a power cut looks like to everybody else."""
        await self._end(signal.SIGKILL)

    async def ask(self, parts: list[dict[str, str]], **fields: Any) -> str:
        """Hands it a question of the task of three colours; its id, once the question is on its disk."""
        question = {"task": "colours", "parts": parts, "label": "red", "probabilities": [0.4, 0.3, 0.3], **fields}
        assert self._process.stdin is not None
        before = len(self.of("accepted"))
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return str((await self.tells("accepted", count=before + 1))["id"])

    def of(self, event: str, input_id: str = "") -> list[dict[str, Any]]:
        """What it told of that kind, about one input or about any."""
        return [told for told in self.said if told["event"] == event and input_id in ("", told.get("id"))]

    async def tells(self, event: str, input_id: str = "", *, count: int = 1) -> dict[str, Any]:
        """The ``count``-th of that kind; waits for it."""
        await self._until(lambda: len(self.of(event, input_id)) >= count)
        return self.of(event, input_id)[count - 1]

    async def _until(self, true: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(20):
                while not true():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"it said {self.said[-20:]}; {self._log.read_text()[-2000:]}") from None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))
            self._arrived.set()

    async def _end(self, how: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(how)
        async with asyncio.timeout(20):
            await self._process.wait()
            await self._reading
