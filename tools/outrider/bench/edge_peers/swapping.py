"""An agent that changes its model whenever it gets SIGUSR1: ``python -m outrider.bench.edge_peers.swapping EDGE.toml BUNDLE BUNDLE``.

Between two releases, back and forth. What an update does on a device while it answers is all here: the self-test in a process of its
own, loading, warming and checking in a thread, the swap. What comes before, fetching and signatures, is not. Each swap is one line
on standard output.
"""

import asyncio
import itertools
import signal
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_engine.golden import check_golden
from outrider_engine.model import Model, load_model
from outrider_engine.selftest import run_selftest


class Swap(Struct, kw_only=True, frozen=True):
    """One change of the model, by the monotonic clock."""

    began: float
    swapped: float
    digest: str
    fault: str = ""
    """Why the old model goes on answering."""


async def main() -> None:
    """Serves until SIGTERM."""
    config, *bundles = sys.argv[1:]
    asked, stop, loop = asyncio.Semaphore(0), asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, asked.release)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with serving(load_edge_config(Path(config), {})) as served:
        [runtime] = served.agent.runtimes.values()
        swapping = asyncio.create_task(_swap_when(asked, runtime, bundles))
        await stop.wait()
        swapping.cancel()


async def _swap_when(asked: asyncio.Semaphore, runtime: TaskRuntime, bundles: list[str]) -> None:
    for bundle in itertools.cycle([*bundles[1:], bundles[0]]):
        await asked.acquire()
        began = time.monotonic()
        tested = await asyncio.to_thread(run_selftest, Path(bundle))
        model, faults = await asyncio.to_thread(_loaded, Path(bundle), runtime)
        fault = "; ".join(faults) if tested.ok else tested.detail or tested.reason
        if not fault:
            runtime.swap(model)
        swap = Swap(began=began, swapped=time.monotonic(), digest=runtime.model.digest, fault=fault)
        print(msgspec.json.encode(swap).decode(), flush=True)


def _loaded(bundle: Path, runtime: TaskRuntime) -> tuple[Model, list[str]]:
    model = load_model(bundle, bounds=runtime.task.inputs)
    return model, check_golden(model)


if __name__ == "__main__":
    asyncio.run(main())
