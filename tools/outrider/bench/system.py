"""A whole small system for the benchmark of escalations: one broker, and for each durability a cloud and an agent of its own.

Each is a process, started as a user would start it. Measures nothing.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from outrider.client import Client
from outrider.processes import Processes, any_port, free_port
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import UndecidedError
from outrider_wire.task import Task

Durability = Literal["disk", "memory"]
DURABILITIES: Sequence[Durability] = ("disk", "memory")
HOST = "127.0.0.1"


class System:
    """Broker, clouds with a large model that costs nothing, agents. Use as a context manager.

    Args:
        task: what is asked; its durability is set here.
        bundle: the device's.
        folder: for configurations, stores and logs; empty.
    """

    def __init__(self, *, task: Task, bundle: Path, folder: Path) -> None:
        self.broker_port = any_port()
        self.agents_port = self.broker_port
        """Where the agents find the broker; a proxy's, where what they say is counted."""
        self._task = task
        self._bundle = bundle
        self._folder = folder
        self._processes = Processes(logs=folder / "logs")
        self.agents: dict[Durability, str] = {}
        """Address of each agent's local API."""

    def __enter__(self) -> "System":
        self._processes.__enter__()
        try:
            self._start()
        except BaseException:  # interrupted too: __exit__ is not called for what never entered
            self._processes.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.__exit__()

    def _start(self) -> None:
        self._processes.start("broker", ["broker", "run", "--port", str(self.broker_port)])
        self._processes.wait_port("broker", self.broker_port)
        port = self.broker_port
        for durability in DURABILITIES:
            folder = self._folder / durability
            folder.mkdir()
            policy = replace(self._task.policy, durability=durability, mode="live", answer_within_ms=30_000)
            (folder / "task.toml").write_text(task_to_toml(replace(self._task, policy=policy)))
            cloud, port = free_port(port + 1), free_port(port + 2)
            self._start_cloud(durability, folder, cloud)
            self._start_agent(durability, folder, port)
        for address in self.agents.values():
            _wait_connected(address)

    def _start_cloud(self, durability: Durability, folder: Path, port: int) -> None:
        config = folder / "cloud.toml"
        config.write_text(
            f'data_dir = "cloud"\nworker = "{durability}"\n'
            f'{self._broker(durability, self.broker_port)}group = "{durability}"\n[api]\nport = {port}\n'
            '[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\nstrategy = "shunt"\n'
        )
        name = f"cloud-{durability}"
        self._processes.start(name, ["cloud", "serve", "--config", str(config)])
        self._processes.wait_ready(name, f"http://{HOST}:{port}/health/ready")

    def _start_agent(self, durability: Durability, folder: Path, port: int) -> None:
        config = folder / "edge.toml"
        config.write_text(
            f'device = "bench-{durability}"\ndata_dir = "edge"\n{self._broker(durability, self.agents_port)}[api]\nport = {port}\n'
            f'[[tasks]]\nfile = "task.toml"\nbundle = "{self._bundle.absolute()}"\n'
        )
        name = f"agent-{durability}"
        self._processes.start(name, ["edge", "run", "--config", str(config)])
        self.agents[durability] = f"http://{HOST}:{port}"
        self._processes.wait_ready(name, f"{self.agents[durability]}/health/ready")

    def _broker(self, durability: Durability, port: int) -> str:
        """A root of its own, and a group of workers, keep the two systems apart on the one broker."""
        return f'[broker]\nurl = "mqtt://{HOST}:{port}"\nroot = "bench/{durability}"\n'


def _wait_connected(address: str, *, within_s: float = 15.0) -> None:
    """Returns when the agent has reached the broker.

    Raises:
        UndecidedError: it has not in time.
    """
    deadline = time.monotonic() + within_s
    with Client(address) as client:
        while client.status()["broker"] != "connected":
            if time.monotonic() > deadline:
                raise UndecidedError(f"the agent at {address} does not reach the broker", reason="not_connected")
            time.sleep(0.05)
