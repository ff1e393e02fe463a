"""``outrider bench escalate``: what it costs to ask the large model, when the model itself costs nothing. Prints nothing.

An escalation is timed where its caller stands: from the request to the agent's local API until the final answer is back,
less the stages ``prepare``, ``model`` and ``gate`` that the same answer reports, which are the small model's and not the
escalation's. HTTP to the agent is inside. Its measure is an echo of the same bytes over the same broker, bare, and with the
commits that a durable escalation needs. The variants take turns input by input, so that the machine's drift cancels.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from outrider.bench.echo import Echo
from outrider.bench.inputs import Parts, carrier, sized_inputs
from outrider.bench.stopwatch import timing
from outrider.bench.system import DURABILITIES, HOST, Durability, System
from outrider.client import AsyncClient, Client
from outrider.progress import Tell
from outrider_wire.errors import UndecidedError
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

SIZES = (1024, 20 * 1024, 300 * 1024)
CONCURRENCY = 32
WARM_UP = 10
ROUNDS = 3
"""Turns of the echo and the escalations, for the rates."""


@dataclass(frozen=True, kw_only=True)
class EscalatePlan:
    """What to measure."""

    task: Task
    bundle: Path
    folder: Path
    """For everything that is written; empty."""
    sizes: Sequence[int] = SIZES
    """Bytes of the part that carries the payload; above 64 KiB it is pulled."""
    repeats: int = 200
    """Round trips of each variant and size."""
    sustained: int = 2000
    """Escalations for the rate, in all."""


class SizeFigures(Struct, kw_only=True, frozen=True):
    """One size, in milliseconds; the ratios are of the medians."""

    payload_bytes: int
    echo_p50_ms: float
    echo_p95_ms: float
    durable_echo_p50_ms: float
    durable_echo_p95_ms: float
    escalate_p50_ms: float
    """``durability = "disk"``."""
    escalate_p95_ms: float
    memory_p50_ms: float
    """``durability = "memory"``."""
    memory_p95_ms: float
    stage_p50_ms: float
    """The stage ``cloud`` as the agent itself reports it, on disk: without HTTP and without the last commit."""
    memory_stage_p50_ms: float
    escalate_ratio: float
    """To the durable echo."""
    memory_ratio: float
    """To the bare echo."""


class EscalateFigures(Struct, kw_only=True, frozen=True):
    """The JSON line."""

    sizes: dict[str, SizeFigures]
    """By nominal bytes."""
    escalations_per_s: float
    """Sustained, durable, `CONCURRENCY` at once, of the smallest size."""
    echo_per_s: float
    """The bare echo with as many under way."""
    rate_ratio: float
    concurrency: int
    repeats: int


def measure(plan: EscalatePlan, tell: Tell) -> EscalateFigures:
    """Starts a whole system and measures it.

    Raises:
        OperatorError: the machine lacks something, or the task has no part for a size.
        UndecidedError: the system does not answer.
    """
    for size in plan.sizes:
        carrier(plan.task, size)
    tell("starting a broker, two clouds and two agents", 0.0)
    with System(task=plan.task, bundle=plan.bundle, folder=plan.folder) as system:
        tell("starting a broker, two clouds and two agents", 1.0)
        sizes = {str(size): _round_trips(plan, system, size, tell) for size in plan.sizes}
        echoes, escalations = _rates(plan, system, tell)
    return EscalateFigures(
        sizes=sizes,
        escalations_per_s=escalations,
        echo_per_s=echoes,
        rate_ratio=escalations / echoes,
        concurrency=CONCURRENCY,
        repeats=plan.repeats,
    )


@dataclass(frozen=True, kw_only=True)
class _Escalated:
    """One round trip, in milliseconds."""

    outside: float
    """As the caller sees it, less the small model's own stages."""
    stage: float


def _round_trips(plan: EscalatePlan, system: System, size: int, tell: Tell) -> SizeFigures:
    """The four variants of one size, one after the other, again and again."""
    part = carrier(plan.task, size).name
    inputs = sized_inputs(plan.task, size, (WARM_UP + plan.repeats) * len(DURABILITIES), seed=size)
    payloads = itertools.cycle(_bytes_of(parts[part]) for parts in inputs)
    samples: dict[str, list[float]] = {"echo": [], "durable_echo": []}
    escalated: dict[Durability, list[_Escalated]] = {durability: [] for durability in DURABILITIES}
    with _two_echoes(plan, system, str(size)) as (bare, durable), _clients(system) as clients:
        for turn in range(WARM_UP + plan.repeats):
            payload = next(payloads)
            samples["echo"].append(_timed(lambda: bare.round_trip(payload)))  # noqa: B023 - called at once
            samples["durable_echo"].append(_timed(lambda: durable.round_trip(payload)))  # noqa: B023 - called at once
            for offset, (durability, client) in enumerate(clients.items()):
                parts = inputs[len(DURABILITIES) * turn + offset]
                escalated[durability].append(_escalated(client, plan.task.name, parts))
            tell(f"round trips of {size} bytes", (turn + 1) / (WARM_UP + plan.repeats))
    return _figures(len(next(payloads)), samples, escalated)


def _figures(
    payload_bytes: int, samples: dict[str, list[float]], escalated: dict[Durability, list[_Escalated]]
) -> SizeFigures:
    echo, durable = (timing(samples[name][WARM_UP:]) for name in ("echo", "durable_echo"))
    disk, memory = (timing([one.outside for one in escalated[name][WARM_UP:]]) for name in DURABILITIES)
    stages = [timing([one.stage for one in escalated[name][WARM_UP:]]).p50_ms for name in DURABILITIES]
    return SizeFigures(
        payload_bytes=payload_bytes,
        echo_p50_ms=echo.p50_ms,
        echo_p95_ms=echo.p95_ms,
        durable_echo_p50_ms=durable.p50_ms,
        durable_echo_p95_ms=durable.p95_ms,
        escalate_p50_ms=disk.p50_ms,
        escalate_p95_ms=disk.p95_ms,
        memory_p50_ms=memory.p50_ms,
        memory_p95_ms=memory.p95_ms,
        stage_p50_ms=stages[0],
        memory_stage_p50_ms=stages[1],
        escalate_ratio=disk.p50_ms / durable.p50_ms,
        memory_ratio=memory.p50_ms / echo.p50_ms,
    )


def _escalated(client: Client, task: str, parts: Parts) -> _Escalated:
    started = time.perf_counter()
    report = client.ask(task, parts, insist=True)
    wall_ms = 1e3 * (time.perf_counter() - started)
    _check(report)
    own_ms = sum(report.ms[stage] for stage in ("prepare", "model", "gate"))
    return _Escalated(outside=wall_ms - own_ms, stage=report.ms["cloud"])


def _rates(plan: EscalatePlan, system: System, tell: Tell) -> tuple[float, float]:
    """Echoes and durable escalations a second, in turns; the medians."""
    size, each = min(plan.sizes), max(CONCURRENCY, plan.sustained // ROUNDS)
    inputs = sized_inputs(plan.task, size, each, seed=1)
    payload = _bytes_of(inputs[0][carrier(plan.task, size).name])
    echoes, escalations = [], []
    with Echo(name="rate", host=HOST, port=system.broker_port) as echo:
        for turn in range(ROUNDS):
            echoes.append(echo.per_second(payload, n=each, window=CONCURRENCY))
            escalations.append(asyncio.run(_sustained(system.agents["disk"], plan.task.name, inputs)))
            tell("sustained", (turn + 1) / ROUNDS)
    return statistics.median(echoes), statistics.median(escalations)


async def _sustained(address: str, task: str, inputs: Sequence[Parts]) -> float:
    """Escalations a second with `CONCURRENCY` at once."""
    waiting = iter(inputs)
    async with AsyncClient(address) as client:

        async def one_after_the_other() -> None:
            for parts in waiting:
                _check(await client.ask(task, parts, insist=True))

        started = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENCY)))
        return len(inputs) / (time.perf_counter() - started)


@contextmanager
def _two_echoes(plan: EscalatePlan, system: System, name: str) -> Iterator[tuple[Echo, Echo]]:
    folder = plan.folder / f"echo-{name}"
    folder.mkdir()
    with (
        Echo(name=f"bare-{name}", host=HOST, port=system.broker_port) as bare,
        Echo(name=f"durable-{name}", host=HOST, port=system.broker_port, folder=folder) as durable,
    ):
        yield bare, durable


@contextmanager
def _clients(system: System) -> Iterator[dict[Durability, Client]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Client(system.agents[name])) for name in DURABILITIES}


def _check(report: AnswerReport) -> None:
    """Only what the large model answered in time counts as an escalation.

    Raises:
        UndecidedError: this one was not.
    """
    if report.answered_by != "cloud" or not report.final:
        raise UndecidedError(
            f"an escalation was not answered by the cloud: {report.note or report.state}", reason="not_answered"
        )


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def _bytes_of(part: bytes | str) -> bytes:
    return part.encode() if isinstance(part, str) else part
