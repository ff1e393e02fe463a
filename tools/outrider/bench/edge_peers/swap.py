"""Changes the agent's model while it is asked, and compares the slowest answers during the changes with those between them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from outrider.bench.edge_peers.contenders import START_S
from outrider.bench.edge_peers.load import LoadFound, LoadPlan, load
from outrider.bench.edge_peers.model import TASK, Served
from outrider.bench.edge_peers.swapping import Swap
from outrider.processes import Processes, any_port
from outrider.progress import Tell
from outrider_wire.decodable import decodable
from outrider_wire.errors import PeerError, UndecidedError

CONNECTIONS = 8
SHARE_OF_MOST = 0.25
"""Of what the agent can answer in a second: a device with nothing to spare is not updated."""
SETTLE_S = 2.0
"""Between two swaps: what they are compared with."""
AFTER_S = 0.25
"""Still counted to a swap: the first answers of the new model."""
_WITHIN_S = 60.0


class SwapFigures(Struct, kw_only=True, frozen=True):
    """What the load saw."""

    refused: int
    p99_ratio: float
    """Median of the swaps' own ratios: during each, to the quiet time before it."""
    p99_before_ms: float
    p99_during_ms: float
    """Medians of the same."""
    longest_ms: float
    """The slowest single answer while any swap was under way."""
    swaps: int
    swap_s: float
    """From the self-test's start until the new model answers; the median."""
    requests: int
    per_second: float
    """That were asked at fixed times."""


def measure_swap(served: Served, body: bytes, *, folder: Path, swaps: int, rps: float, tell: Tell) -> SwapFigures:
    """Asks at a steady rate, on 8 connections, while the model is swapped ``swaps`` times.

    Args:
        rps: what the agent can answer in a second, of which `SHARE_OF_MOST` is asked.

    Raises:
        UndecidedError: the swaps do not come to an end.
        PeerError: a swap was refused, or a reply was no HTTP.
    """
    folder.mkdir(parents=True)
    port = any_port()
    (folder / "edge.toml").write_text(_config(served, folder, port))
    with Processes(logs=folder / "logs", isolated=True) as processes:
        program = [sys.executable, "-m", "outrider.bench.edge_peers.swapping", str(folder / "edge.toml")]
        processes.run("swapping", [*program, str(served.first), str(served.second)])
        processes.wait_port("swapping", port, within_s=START_S)
        rate = SHARE_OF_MOST * rps
        path = f"/v1/tasks/{TASK.name}/answers"
        load(LoadPlan(port=port, path=path, body=body, connections=CONNECTIONS, seconds=0.5))
        blocks, done = [], []
        for number in range(swaps):
            plan = LoadPlan(
                port=port, path=path, body=body, connections=CONNECTIONS, seconds=2 * SETTLE_S + 2, per_second=rate
            )
            found, swap = _swapped_under(plan, processes.pid("swapping"), folder / "logs" / "swapping.log", number)
            blocks.append(found)
            done.append(swap)
            tell("swaps under load", (number + 1) / swaps)
    return _figures(blocks, done, rate)


def _swapped_under(plan: LoadPlan, pid: int, log: Path, number: int) -> tuple[LoadFound, Swap]:
    """One run of the load, in the middle of which the agent is told to swap."""
    found: list[LoadFound] = []
    asking = threading.Thread(target=lambda: found.append(load(plan)))
    asking.start()
    time.sleep(SETTLE_S + 1)  # the load's own start takes part of that
    os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + _WITHIN_S
    while len(swaps := _told(log)) <= number and time.monotonic() < deadline:
        time.sleep(0.05)
    asking.join()
    if len(swaps) <= number:
        raise UndecidedError(f"a swap did not end within {_WITHIN_S:.0f} s", reason="swap_unfinished")
    if swaps[number].fault:
        raise PeerError(f"a swap was refused: {swaps[number].fault}", reason="swap_refused")
    if not found:
        raise PeerError("the load ended early", reason="load_failed")
    return found[0], swaps[number]


def _told(log: Path) -> list[Swap]:
    lines = log.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=decodable(Swap)) for line in lines if line.startswith(b'{"began"')]


def _figures(blocks: Sequence[LoadFound], swaps: Sequence[Swap], rate: float) -> SwapFigures:
    before, during, longest = [], [], 0.0
    for found, swap in zip(blocks, swaps, strict=True):
        began, ms = np.asarray(found.began), np.asarray(found.ms)
        under_way = (began + ms / 1e3 >= swap.began) & (began <= swap.swapped + AFTER_S)
        quiet = began + ms / 1e3 < swap.began
        if not under_way.any() or not quiet.any():
            raise UndecidedError("the load did not span the swap", reason="swap_unfinished")
        before.append(float(np.quantile(ms[quiet], 0.99)))
        during.append(float(np.quantile(ms[under_way], 0.99)))
        longest = max(longest, float(ms[under_way].max()))
    return SwapFigures(
        refused=sum(found.refused for found in blocks),
        p99_ratio=float(np.median(np.asarray(during) / np.asarray(before))),
        p99_before_ms=float(np.median(before)),
        p99_during_ms=float(np.median(during)),
        longest_ms=longest,
        swaps=len(swaps),
        swap_s=float(np.median([swap.swapped - swap.began for swap in swaps])),
        requests=sum(len(found.ms) for found in blocks),
        per_second=rate,
    )


def _config(served: Served, folder: Path, port: int) -> str:
    return (
        f'device = "bench"\ndata_dir = "{folder / "agent"}"\n\n[api]\nport = {port}\n\n'
        f'[[tasks]]\nfile = "{served.task}"\nbundle = "{served.first}"\n'
    )
