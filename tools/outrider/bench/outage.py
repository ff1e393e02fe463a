"""How fast a device catches up after an outage: a full outbox against a broker and a cloud that have just come back."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from outrider.bench.inputs import Parts, sized_inputs
from outrider.bench.system import HOST
from outrider.client import AsyncClient, Client
from outrider.processes import Processes, any_port, free_port
from outrider.progress import Tell
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import UndecidedError
from outrider_wire.task import Task

_AT_ONCE = 32
_MOST_S = 120.0


class OutageFigures(Struct, kw_only=True, frozen=True):
    """What waited, and how soon it was answered."""

    queued: int
    queued_per_s: float
    """Inputs that the agent took, over HTTP, while nobody could be reached: answered here, durable, provisional."""
    drain_per_s: float
    """Answered by the cloud, from the moment at which the device was connected until nothing waited."""


def measure_outage(*, task: Task, bundle: Path, folder: Path, size: int, n: int, tell: Tell) -> OutageFigures:
    """Fills an outbox with ``n`` inputs of ``size`` bytes, then starts the broker and the cloud. ``folder`` is empty.

    Raises:
        OperatorError: the machine lacks something, or the task has no part for the size.
        UndecidedError: the backlog does not clear.
    """
    with Processes(logs=folder / "logs") as processes:
        broker = any_port()
        agent = _start_agent(processes, folder, task=task, bundle=bundle, broker=broker, n=n)
        tell("filling the outbox", 0.0)
        inputs = sized_inputs(task, size, n, seed=size)
        started = time.perf_counter()
        asyncio.run(_fill(agent, task.name, inputs))
        filling_s = time.perf_counter() - started
        tell("the broker and the cloud come back", 0.0)
        processes.start("broker", ["broker", "run", "--port", str(broker)])
        processes.wait_port("broker", broker)
        _start_cloud(processes, folder, broker)
        draining_s = _drained(agent, n, tell)
    return OutageFigures(queued=n, queued_per_s=n / filling_s, drain_per_s=n / draining_s)


def _start_agent(processes: Processes, folder: Path, *, task: Task, bundle: Path, broker: int, n: int) -> str:
    (folder / "task.toml").write_text(task_to_toml(task))
    port = free_port(broker + 1)
    config = folder / "edge.toml"
    config.write_text(
        f'device = "bench-outage"\ndata_dir = "edge"\n[broker]\nurl = "mqtt://{HOST}:{broker}"\n[api]\nport = {port}\n'
        f"[outbox]\nmax_count = {4 * n}\nmax_bytes = {1 << 32}\n"
        f'[[tasks]]\nfile = "task.toml"\nbundle = "{bundle.absolute()}"\n'
    )
    processes.start("agent", ["edge", "run", "--config", str(config)])
    processes.wait_ready("agent", f"http://{HOST}:{port}/health/ready")
    return f"http://{HOST}:{port}"


def _start_cloud(processes: Processes, folder: Path, broker: int) -> None:
    port = free_port(broker + 2)
    config = folder / "cloud.toml"
    config.write_text(
        f'data_dir = "cloud"\n[broker]\nurl = "mqtt://{HOST}:{broker}"\n[api]\nport = {port}\n'
        '[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\nstrategy = "shunt"\n'
    )
    processes.start("cloud", ["cloud", "serve", "--config", str(config)])
    processes.wait_ready("cloud", f"http://{HOST}:{port}/health/ready")


async def _fill(address: str, task: str, inputs: Sequence[Parts]) -> None:
    waiting = iter(inputs)
    async with AsyncClient(address) as client:

        async def one_after_the_other() -> None:
            for parts in waiting:
                await client.ask(task, parts, insist=True, wait=False)

        await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))


def _drained(address: str, n: int, tell: Tell) -> float:
    """Seconds from the connection until nothing is pending."""
    began: float | None = None
    deadline = time.monotonic() + _MOST_S
    with Client(address) as client:
        while time.monotonic() < deadline:
            status = client.status()
            if began is None and status["broker"] == "connected":
                began = time.perf_counter()
            pending = status["account"]["pending"]
            tell("catching up", 1 - pending / n)
            if began is not None and not pending:
                return time.perf_counter() - began
            time.sleep(0.02)
    raise UndecidedError(f"the outbox did not clear within {_MOST_S:.0f} s", reason="not_drained")
