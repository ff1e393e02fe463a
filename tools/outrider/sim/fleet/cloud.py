"""The cloud of the simulation: the real service as a process whose calendar runs fast, and what an engineer asks of its API."""

import asyncio
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp

from outrider.processes import Processes
from outrider.sim.fleet.fast_clock import FastClock
from outrider.sim.fleet.goods import TASK, Release, task_text
from outrider_wire.errors import PeerError
from outrider_wire.manifest import MANIFEST_FILE

HOST = "127.0.0.1"
READY_S = 120.0


class SimCloud:
    """Start it, then ask it.

    Args:
        folder: of its own.
        port: of its API.
    """

    def __init__(self, *, folder: Path, port: int) -> None:
        self._folder = folder
        self._url = f"http://{HOST}:{port}"
        self._port = port

    def launch(self, processes: Processes, *, broker: str, repository: Path, clock: FastClock) -> None:
        """Starts it; returns when it is ready.

        Raises:
            OperatorSetupError: it ended, or is not ready in time.
        """
        self._folder.mkdir(parents=True)
        (self._folder / "task.toml").write_text(task_text())
        config = self._folder / "cloud.toml"
        config.write_text(
            f'data_dir = "data"\nworker = "sim"\n[broker]\nurl = "{broker}"\n[api]\nport = {self._port}\n'
            f'[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\nstrategy = "shunt"\n[trust]\nrepository = "{repository}"\n'
        )
        module = ["-m", "outrider.sim.fleet.fast_clock", repr(clock.base_s), repr(clock.speed)]
        processes.run("cloud", [sys.executable, *module, "cloud", "serve", "--config", str(config)])
        processes.wait_ready("cloud", f"{self._url}/health/ready", within_s=READY_S, every_s=0.2)

    async def publish(self, releases: Iterable[Release]) -> None:
        """Uploads bundles as releases."""
        for release in releases:
            for file in release.folder.iterdir():
                data = file.read_bytes()
                await self.ask("PUT", f"/v1/blobs/{hashlib.sha256(data).hexdigest()}", data=data)
            digest = hashlib.sha256((release.folder / MANIFEST_FILE).read_bytes()).hexdigest()
            await self.ask("POST", "/v1/releases", body={"manifest": digest})

    async def begin(self, rollout: str) -> None:
        """Takes a signed plan up."""
        await self.ask("POST", "/v1/rollouts", body={"task": TASK.name, "rollout": rollout})

    async def rollout(self, rollout: str) -> Any:
        """How it stands."""
        return await self.ask("GET", f"/v1/rollouts/{rollout}")

    async def act(self, rollout: str, wanted: str) -> None:
        """A person's word."""
        await self.ask("POST", f"/v1/rollouts/{rollout}/act", body={"act": wanted, "note": "the simulation's engineer"})

    async def known(self) -> int:
        """Devices that have told what they run."""
        return sum(TASK.name in row["slots"] for row in (await self.ask("GET", "/v1/devices"))["devices"])

    async def ask(self, method: str, path: str, *, body: Any = None, data: bytes | None = None) -> Any:
        """One request, tried again while the cloud is too busy.

        Raises:
            PeerError: it refuses.
        """
        for attempt in range(5):
            try:
                timeout = aiohttp.ClientTimeout(total=30)
                async with (
                    aiohttp.ClientSession(timeout=timeout) as client,
                    client.request(method, self._url + path, json=body, data=data) as reply,
                ):
                    said = await reply.json()
                    if reply.status < 300:
                        return said
                    raise PeerError(f"{method} {path}: {reply.status} {said}", reason="refused_by_cloud")
            except (TimeoutError, aiohttp.ClientError):
                if attempt == 4:
                    raise
                await asyncio.sleep(1.0)
        return None
