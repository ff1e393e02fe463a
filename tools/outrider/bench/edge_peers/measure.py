"""Both measurements: the servers side by side, and a swap under load. Prints nothing."""

import base64
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct

from outrider.bench.edge_peers.contenders import CONTENDERS, check_installed, start_all
from outrider.bench.edge_peers.cpu import tree_cpu_s
from outrider.bench.edge_peers.load import LoadFound, LoadPlan, load
from outrider.bench.edge_peers.model import TASK, Served, build
from outrider.bench.edge_peers.swap import SwapFigures, measure_swap
from outrider.processes import Processes
from outrider.progress import Tell
from outrider_wire.errors import PeerError

CONCURRENCIES = (1, 8, 32)


@dataclass(frozen=True, kw_only=True)
class PeersPlan:
    """What to measure."""

    folder: Path
    """For everything that is written; empty."""
    rounds: int = 5
    seconds: float = 1.0
    """Of each server's turn at each concurrency."""
    swaps: int = 10


class PeerFigures(Struct, kw_only=True, frozen=True):
    """One server at one concurrency: medians of the rounds."""

    rps: float
    p50_ms: float
    p99_ms: float
    refused: int
    """In all rounds together."""
    cpu_ms: float | None
    """Processor time that all processes of the server spent on one request; on a busy machine the figure to trust."""


class AgainstFigures(Struct, kw_only=True, frozen=True):
    """Our agent against one other: medians of the rounds' own ratios, in which the machine's drift cancels."""

    rps: float
    p99: float


class PeersFigures(Struct, kw_only=True, frozen=True):
    """What is added to the JSON line of ``bench edge``."""

    peers: dict[str, dict[str, PeerFigures]]
    against: dict[str, dict[str, AgainstFigures]]
    """Other server → concurrency → agent ÷ other."""
    swap: SwapFigures
    peer_rounds: int
    peer_body_bytes: int


class _Turn(Struct, kw_only=True, frozen=True):
    rps: float
    p50_ms: float
    p99_ms: float
    refused: int
    cpu_ms: float | None


def measure_peers(plan: PeersPlan, tell: Tell) -> PeersFigures:
    """Trains the model, then compares, then swaps.

    Raises:
        OperatorSetupError: a peer is not installed.
        PeerError: a server refuses everything, or does not speak as it should.
    """
    check_installed()
    served = build(plan.folder, tell)
    body = body_of(served)
    turns = _compare(plan, served, body, tell)
    peers = {
        name: {str(at): _summed(turns[name, at]) for at in CONCURRENCIES} for name in (each.name for each in CONTENDERS)
    }
    against = {
        name: {str(at): _against(turns["outrider", at], turns[name, at]) for at in CONCURRENCIES}
        for name in peers
        if name != "outrider"
    }
    swap = measure_swap(
        served, body, folder=plan.folder / "swap", swaps=plan.swaps, rps=peers["outrider"]["8"].rps, tell=tell
    )
    return PeersFigures(peers=peers, against=against, swap=swap, peer_rounds=plan.rounds, peer_body_bytes=len(body))


def body_of(served: Served) -> bytes:
    """One input in JSON, as the agent's API takes it; every server gets the same."""
    [part] = TASK.inputs
    encoded = base64.b64encode(served.example).decode()
    return json.dumps({"parts": {part.name: {"base64": encoded}}}).encode()


def _compare(plan: PeersPlan, served: Served, body: bytes, tell: Tell) -> dict[tuple[str, int], list[_Turn]]:
    """Every server at every concurrency, in an order that moves on by one each round."""
    turns: dict[tuple[str, int], list[_Turn]] = {(each.name, at): [] for each in CONTENDERS for at in CONCURRENCIES}
    with Processes(logs=plan.folder / "logs", isolated=True) as processes:
        tell("starting servers", 0.0)
        ports = start_all(processes, served, plan.folder)
        for each in CONTENDERS:  # nobody's first requests count
            load(LoadPlan(port=ports[each.name], path=each.path, body=body, connections=8, seconds=0.3))
        for number in range(plan.rounds):
            for at in CONCURRENCIES:
                first = (number + CONCURRENCIES.index(at)) % len(CONTENDERS)
                for each in (*CONTENDERS[first:], *CONTENDERS[:first]):
                    asked = LoadPlan(
                        port=ports[each.name], path=each.path, body=body, connections=at, seconds=plan.seconds
                    )
                    pid = processes.pid(each.name)
                    before, found = tree_cpu_s(pid), load(asked)
                    turns[each.name, at].append(_turn(each.name, found, before, tree_cpu_s(pid)))
            tell("servers side by side", (number + 1) / plan.rounds)
    return turns


def _turn(name: str, found: LoadFound, before_s: float | None, after_s: float | None) -> _Turn:
    if not found.ms or found.refused >= len(found.ms):
        raise PeerError(
            f"{name} answered nothing of {len(found.ms)} requests",
            reason="load_failed",
            fix="see its log, or try alone",
        )
    return _Turn(
        rps=len(found.ms) / found.seconds,
        p50_ms=float(np.quantile(found.ms, 0.5)),
        p99_ms=float(np.quantile(found.ms, 0.99)),
        refused=found.refused,
        cpu_ms=None if before_s is None or after_s is None else 1e3 * (after_s - before_s) / found.asked,
    )


def _summed(turns: list[_Turn]) -> PeerFigures:
    return PeerFigures(
        rps=statistics.median(turn.rps for turn in turns),
        p50_ms=statistics.median(turn.p50_ms for turn in turns),
        p99_ms=statistics.median(turn.p99_ms for turn in turns),
        refused=sum(turn.refused for turn in turns),
        cpu_ms=_median(turn.cpu_ms for turn in turns),
    )


def _median(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return statistics.median(known) if known else None


def _against(ours: list[_Turn], theirs: list[_Turn]) -> AgainstFigures:
    pairs = list(zip(ours, theirs, strict=True))
    return AgainstFigures(
        rps=statistics.median(one.rps / other.rps for one, other in pairs),
        p99=statistics.median(one.p99_ms / other.p99_ms for one, other in pairs),
    )
