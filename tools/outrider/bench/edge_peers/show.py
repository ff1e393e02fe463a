"""The comparison as tables for a person, with the aims that it is held against."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from outrider.bench.edge_peers.measure import AgainstFigures, PeersFigures, PeersPlan, measure_peers
from outrider.output import Screen
from outrider.progress import bar

Aim = tuple[str, str, Callable[[PeersFigures], float], Callable[[float], bool]]
"""(what is wanted, how far, the figure, whether it is reached)"""


def _ratio(other: str, at: str, of: str = "rps") -> Callable[[PeersFigures], float]:
    def figure(found: PeersFigures) -> float:
        against: AgainstFigures = found.against[other][at]
        return against.rps if of == "rps" else against.p99

    return figure


AIMS: Sequence[Aim] = (
    ("requests a second, to LitServe's, 8 connections", "≥ 4", _ratio("litserve", "8"), lambda x: x >= 4),
    ("requests a second, to mosec's, 8 connections", "≥ 1.2", _ratio("mosec", "8"), lambda x: x >= 1.2),
    ("p99, to mosec's, 8 connections", "≤ 1", _ratio("mosec", "8", "p99"), lambda x: x <= 1),
    ("requests a second, to the bare loop's, 1 connection", "≥ 0.85", _ratio("bare", "1"), lambda x: x >= 0.85),
    ("requests a second, to the bare loop's, 8 connections", "≥ 0.85", _ratio("bare", "8"), lambda x: x >= 0.85),
    ("refused while the model is swapped", "0", lambda found: found.swap.refused, lambda x: x == 0),
    ("p99 during a swap, to p99 before it", "≤ 2", lambda found: found.swap.p99_ratio, lambda x: x <= 2),
)


def beside_peers(screen: Screen, *, rounds: int, seconds: float, swaps: int) -> dict[str, Any]:
    """Measures, shows, and gives what is added to the JSON line; errors as `measure_peers`."""
    with tempfile.TemporaryDirectory() as folder, bar(screen) as tell:
        plan = PeersPlan(folder=Path(folder), rounds=rounds, seconds=seconds, swaps=swaps)
        found = measure_peers(plan, tell)
    show(found, screen)
    added: dict[str, Any] = msgspec.to_builtins(found)
    return added


def show(found: PeersFigures, screen: Screen) -> None:
    """Prints both measurements."""
    rows: list[Sequence[object]] = []
    for name, by_concurrency in found.peers.items():
        for at, one in by_concurrency.items():
            cpu = "" if one.cpu_ms is None else f"{one.cpu_ms:.2f}"
            rows.append((name, at, f"{one.rps:,.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", cpu, one.refused))
    columns = ("server", "connections", "requests/s", "p50 ms", "p99 ms", "CPU ms each", "refused")
    screen.table(columns, rows, title=f"The same model and body, medians of {found.peer_rounds} rounds")
    swap = found.swap
    screen.note(
        f"{swap.swaps} swaps of {swap.swap_s:.1f} s each at {swap.per_second:.0f} requests a second: "
        f"p99 {swap.p99_before_ms:.2f} ms before, {swap.p99_during_ms:.2f} ms during, the slowest {swap.longest_ms:.1f} ms"
    )
    judged = [(what, bound, figure(found), reached) for what, bound, figure, reached in AIMS]
    screen.table(
        ("aim", "", "found", ""),
        [(what, bound, f"{x:.2f}", "✓" if reached(x) else "✗") for what, bound, x, reached in judged],
    )
