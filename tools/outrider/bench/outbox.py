"""What the device's outbox costs by itself: durable enqueues, the drain after an outage, memory with much queued. Prints nothing.

Enqueues and drain run in this process, over a file and without a broker: what is timed is the outbox and the offering, not the
wire. Memory is that of a real agent, started on an outbox that was filled beforehand, with its broker out of reach.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from outrider.processes import Processes, any_port
from outrider.progress import Tell
from outrider_edge.outbox.clock import run_clock
from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.ports import OutboxEntry, OutboxPart
from outrider_edge.uplink.offering import Offering
from outrider_export.task_text import task_to_toml
from outrider_wire.ids import uuid7
from outrider_wire.limits import MESSAGE_BYTES
from outrider_wire.messages import Answer, Escalation
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

CONCURRENCY = 32
HOST = "127.0.0.1"
SETTLE_S = 3.0
"""What an agent gets to take up what it will take up."""
_MODEL = "0" * 64
_BOUNDS = DEFAULT_BOUNDS._replace(max_count=1_000_000, max_bytes=1 << 40)


@dataclass(frozen=True, kw_only=True)
class OutboxPlan:
    """What to measure."""

    task: Task
    bundle: Path
    folder: Path
    """For everything that is written; empty."""
    payload_bytes: int = 1024
    enqueues: int = 2_000
    drained: int = 10_000
    queued: tuple[int, int] = (1_000, 100_000)
    """Entries of the two agents whose memory is compared."""


class OutboxFigures(Struct, kw_only=True, frozen=True):
    """Rates a second, memory in megabytes."""

    enqueue_per_s: float
    """Durable, one after the other: each waits for its own commit."""
    enqueue_32_per_s: float
    """`CONCURRENCY` at once: they share commits."""
    drain_stub_per_s: float
    """Questions of an outage that are offered, answered and settled, over a line that answers at once."""
    rss_mb_1k: float
    rss_mb_100k: float
    """Resident memory of an agent with that many queued (`OutboxPlan.queued`)."""


def measure_outbox(plan: OutboxPlan, tell: Tell) -> OutboxFigures:
    """Everything."""
    enqueue, enqueue_32 = asyncio.run(_enqueues(plan, tell))
    drain = asyncio.run(_drain(plan, tell))
    few, many = (outbox_memory(plan, queued, tell) for queued in plan.queued)
    return OutboxFigures(
        enqueue_per_s=enqueue, enqueue_32_per_s=enqueue_32, drain_stub_per_s=drain, rss_mb_1k=few, rss_mb_100k=many
    )


def outbox_memory(plan: OutboxPlan, queued: int, tell: Tell) -> float:
    """Resident megabytes of an agent that has so many queued and cannot reach its broker.

    Raises:
        OperatorSetupError: the agent does not start.
        UndecidedError: it is not ready in time.
    """
    folder = plan.folder / f"memory-{queued}"
    folder.mkdir()
    tell(f"filling an outbox with {queued:,}", 0.0)
    asyncio.run(_fill(folder / "edge" / "outbox", plan, queued))
    port = any_port()
    (folder / "task.toml").write_text(task_to_toml(plan.task))
    config = folder / "edge.toml"
    config.write_text(
        f'device = "bench"\ndata_dir = "edge"\n[broker]\nurl = "mqtt://{HOST}:{any_port()}"\n[api]\nport = {port}\n'
        f"[outbox]\nmax_count = {_BOUNDS.max_count}\nmax_bytes = {_BOUNDS.max_bytes}\n"
        f'[[tasks]]\nfile = "task.toml"\nbundle = "{plan.bundle.absolute()}"\n'
    )
    with Processes(logs=folder / "logs") as processes:
        processes.start("agent", ["edge", "run", "--config", str(config)])
        processes.wait_ready("agent", f"http://{HOST}:{port}/health/ready", within_s=60.0)
        time.sleep(SETTLE_S)
        return _resident_mb(processes.pid("agent"))


async def _enqueues(plan: OutboxPlan, tell: Tell) -> tuple[float, float]:
    async with _Open(plan.folder / "enqueue") as outbox:
        entries = _entries(plan)
        for entry in itertools.islice(entries, 50):
            await outbox.put(entry)
        each = max(CONCURRENCY, plan.enqueues // 2)
        started = time.perf_counter()
        for entry in itertools.islice(entries, each):
            await outbox.put(entry)
        alone = each / (time.perf_counter() - started)
        tell("durable enqueues", 0.5)
        started = time.perf_counter()
        await _at_once(outbox, itertools.islice(entries, each * 4), CONCURRENCY)
        tell("durable enqueues", 1.0)
        return alone, 4 * each / (time.perf_counter() - started)


async def _drain(plan: OutboxPlan, tell: Tell) -> float:
    folder = plan.folder / "drain"
    await _fill(folder, plan, plan.drained)
    async with _Open(folder) as outbox:
        line = _AnsweringLine()
        offering = Offering(outbox=outbox, line=line, clock=run_clock())
        line.offering = offering
        started = time.perf_counter()
        await offering.start()
        offering.connected()
        while (answered := offering.counts["answered"]) < plan.drained:
            tell("draining", answered / plan.drained)
            await asyncio.sleep(0.05)
        took_s = time.perf_counter() - started
        await offering.stop()
    return plan.drained / took_s


class _AnsweringLine:
    """`outrider_edge.uplink.offering.Line` whose other end answers everything at once."""

    connected = True
    packet_limit = MESSAGE_BYTES

    def __init__(self) -> None:
        self.offering: Offering | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def offer(self, escalation: Escalation) -> bool:
        """Takes it; its answer follows."""
        assert self.offering is not None  # noqa: S101 - wired by `_drain`
        answer = Answer(
            id=escalation.id,
            task=escalation.task,
            label=escalation.label,
            confidence=1.0,
            probabilities=escalation.probabilities,
            strategy="shunt",
            model="none",
        )
        task = asyncio.create_task(self.offering.on_answer(answer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return True


class _Open:
    """An outbox that is open for a while."""

    def __init__(self, folder: Path) -> None:
        self._outbox = Outbox(folder=folder, bounds=_BOUNDS)

    async def __aenter__(self) -> Outbox:
        await self._outbox.start()
        return self._outbox

    async def __aexit__(self, *_: object) -> None:
        await self._outbox.stop()


async def _fill(folder: Path, plan: OutboxPlan, n: int) -> None:
    async with _Open(folder) as outbox:
        await _at_once(outbox, itertools.islice(_entries(plan), n), 256)


async def _at_once(outbox: Outbox, entries: Iterator[OutboxEntry], many: int) -> None:
    async def one_after_the_other() -> None:
        for entry in entries:
            outbox.arrived(entry.task)
            await outbox.put(entry)

    await asyncio.gather(*(one_after_the_other() for _ in range(many)))


def _entries(plan: OutboxPlan) -> Iterator[OutboxEntry]:
    """Escalations without end, each with one part of the wanted size."""
    labels = plan.task.labels
    share = 1 / len(labels)
    for number in itertools.count():
        id_ = uuid7(time.time_ns() // 1_000_000, number.to_bytes(10, "big"))
        report = AnswerReport(
            id=id_,
            task=plan.task.name,
            state="pending",
            label=labels[0],
            confidence=share,
            threshold=1.0,
            answered_by="edge",
            final=False,
            certified=False,
            why="low_confidence",
            model="bench",
            model_digest=_MODEL,
            probabilities=dict.fromkeys(labels, share),
            ms={"total": 1.0},
        )
        part = plan.task.inputs[0]
        data = number.to_bytes(8, "big") * (plan.payload_bytes // 8)
        yield OutboxEntry(
            id=id_,
            task=plan.task.name,
            parts=[
                OutboxPart(name=part.name, modality=part.modality, media_type="application/octet-stream", data=data)
            ],
            why="low_confidence",
            model=_MODEL,
            label=labels[0],
            probabilities=[share] * len(labels),
            answer_within_ms=1_000,
            keep_for_s=86_400,
            state="pending",
            report=report,
        )


def _resident_mb(pid: int) -> float:
    """Of a process, from Linux's /proc."""
    import resource

    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
