"""The part of ``outrider bench escalate`` that is about delivery: the outbox alone, an outage, the cloud's workers, the wire."""

from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from outrider.bench.outage import measure_outage
from outrider.bench.outbox import OutboxPlan, measure_outbox
from outrider.bench.wire import WireFigures, measure_wire
from outrider.bench.workers import measure_workers
from outrider.progress import Tell
from outrider_wire.task import Task

SMALL, MIDDLE = 1024, 20 * 1024
"""Bytes of a part: of what is queued, and of what the workers are asked about."""


@dataclass(frozen=True, kw_only=True)
class DeliveryPlan:
    """What to measure."""

    task: Task
    bundle: Path
    folder: Path
    """For everything that is written; empty."""
    queued: int = 100_000
    """Entries in the outbox of the agent whose memory is looked at."""
    drained: int = 10_000
    """Inputs that wait out an outage."""
    asked: int = 1_500
    """Escalations of each turn at the workers."""


class DeliveryFigures(Struct, kw_only=True, frozen=True):
    """Its keys in the JSON line. Rates a second."""

    enqueue_per_s: float
    enqueue_32_per_s: float
    drain_per_s: float
    drain_stub_per_s: float
    """The same without broker and cloud: the device's own part of it."""
    one_worker_per_s: float
    two_workers_per_s: float
    worker_echo_per_s: float
    """The bare echo of the same bytes, in turns with the one worker."""
    one_worker_share: float
    wire_overhead: float
    """Bytes of TCP both ways, beyond the payload's, as a share of it; at `MIDDLE` bytes."""
    wire: dict[str, WireFigures]
    """By nominal bytes."""
    rss_mb_1k: float
    rss_mb_100k: float
    queued: int
    drained: int


def measure_delivery(plan: DeliveryPlan, tell: Tell) -> DeliveryFigures:
    """All of it, one after the other.

    Raises:
        OperatorError: the machine lacks something, or the task has no part for a size.
        UndecidedError: a system does not answer.
    """
    folders = {name: plan.folder / name for name in ("outbox", "outage", "workers", "wire")}
    for folder in folders.values():
        folder.mkdir()
    few = min(1_000, plan.queued)
    outbox = measure_outbox(
        OutboxPlan(
            task=plan.task,
            bundle=plan.bundle,
            folder=folders["outbox"],
            payload_bytes=SMALL,
            drained=plan.drained,
            queued=(few, plan.queued),
        ),
        tell,
    )
    outage = measure_outage(
        task=plan.task, bundle=plan.bundle, folder=folders["outage"], size=SMALL, n=plan.drained, tell=tell
    )
    workers = measure_workers(task=plan.task, folder=folders["workers"], size=MIDDLE, n=plan.asked, tell=tell)
    wire = measure_wire(
        task=plan.task, bundle=plan.bundle, folder=folders["wire"], sizes=(SMALL, MIDDLE), repeats=20, tell=tell
    )
    return DeliveryFigures(
        enqueue_per_s=outbox.enqueue_per_s,
        enqueue_32_per_s=outbox.enqueue_32_per_s,
        drain_per_s=outage.drain_per_s,
        drain_stub_per_s=outbox.drain_stub_per_s,
        one_worker_per_s=workers.one_worker_per_s,
        two_workers_per_s=workers.two_workers_per_s,
        worker_echo_per_s=workers.echo_per_s,
        one_worker_share=workers.one_worker_share,
        wire_overhead=wire[str(MIDDLE)].wire_overhead,
        wire=wire,
        rss_mb_1k=outbox.rss_mb_1k,
        rss_mb_100k=outbox.rss_mb_100k,
        queued=plan.queued,
        drained=plan.drained,
    )
