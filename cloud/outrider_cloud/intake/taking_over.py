"""Queues again what stands claimed in the store and nobody has in hand: of workers that ended, and of this one's own failures."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.answering.worker import Worker
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.admission import Admission
from outrider_cloud.intake.checks import check_labels
from outrider_cloud.intake.jobs import Job, job_from_row
from outrider_cloud.lease_clock import lease
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_wire.codec import encode
from outrider_wire.errors import OutriderError, PeerError
from outrider_wire.messages import Refusal

log = logging.getLogger(__name__)


class TakingOver:
    """Of every task of one process. ``name`` is its worker's."""

    def __init__(
        self,
        *,
        name: str,
        workers: Mapping[str, Worker],
        store: Store,
        deliveries: Deliveries,
        admission: Admission,
        lease_s: float,
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._workers = workers
        self._store = store
        self._deliveries = deliveries
        self._admission = admission
        self._lease_s = lease_s
        self._metrics = metrics
        self._missed: set[tuple[str, str]] = set()

    async def take_over(self, *, own: bool) -> int:
        """Re-queues what is claimed, unanswered and orphaned (``own``: and our own, after a restart), as far as there is room.

        Returns:
            How many; what is left over is there for whoever has room next.
        """
        taken = 0
        for task in self._workers:
            change = partial(
                inputs.take_over,
                worker=self._name,
                tasks=[task],
                lease=lease(self._lease_s),
                most=self._admission.left(task),
                own=own,
            )
            taken += await self._take_up(await self._store.write(change))
        return taken

    async def take_back(self) -> int:
        """Re-queues what this worker holds by the store and nobody here has in hand: whoever had it failed, for want of memory say.

        Its lease is prolonged with all the others, so that nobody else ever takes it, and its repeats only get a receipt. It
        must have been missed by the last look too: what is just being forgotten or settled is not.

        Returns:
            How many.
        """
        held = await self._store.read(partial(inputs.held_by, worker=self._name))
        before, self._missed = self._missed, {key for key in held if not self._in_hand(key)}
        taken = 0
        if lost := sorted(before & self._missed):
            log.warning("inputs.taken_back", extra={"count": len(lost)})
            for task in self._workers:
                most = self._admission.left(task)
                change = partial(inputs.take_back, worker=self._name, task=task, keys=lost, most=most)
                taken += await self._take_up(await self._store.write(change))
        return taken

    def _in_hand(self, key: tuple[str, str]) -> bool:
        return any(worker.find(key) is not None for worker in self._workers.values())

    async def _take_up(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Queues rows that are this worker's by now; how many."""
        stamp, taken = now_ms(), 0
        for row in rows:
            worker = self._workers[row["task"]]
            try:
                job = job_from_row(row, worker.task, now=asyncio.get_running_loop().time(), now_ms=stamp)
            except (OutriderError, TypeError, ValueError) as error:  # one damaged row must not keep the others waiting
                await self._give_up(row, error)
                continue
            if worker.find(job.key) is None:
                taken += 1
                self._resume(worker, job, row["claims"])
        if taken:
            log.info("inputs.taken_over", extra={"count": taken})
        return taken

    async def _give_up(self, row: Mapping[str, Any], error: Exception) -> None:
        """Refuses an input of which no more can be read than whose it is."""
        log.error("input.unreadable", extra={"device": row["device"], "input": row["id"], "what": str(error)[:512]})
        self._metrics.error("stored_input")
        detail = "what was stored of it cannot be read any more"
        refusal = Refusal(id=row["id"], reason="stored_unreadable", detail=detail)
        end = inputs.Settlement(
            device=row["device"],
            id=row["id"],
            task=row["task"],
            state="refused",
            reply=encode(refusal),
            settled_ms=now_ms(),
        )
        await self._store.write(partial(inputs.settle, end=end))
        await self._deliveries.send(
            row["device"],
            refusal,
            content_type=row["content_type"],
            correlation=row["correlation"],
            committed=True,
        )

    def _resume(self, worker: Worker, job: Job, claims: int) -> None:
        """Queues an input that was claimed before, if that can end well."""
        worker.admit(job)
        try:
            check_labels(job.escalation, worker.task)
        except PeerError as error:  # the task has changed meanwhile
            worker.refuse(job, error.reason, str(error))
            return
        if claims > inputs.MAX_CLAIMS:
            worker.refuse(job, "gave_up", "workers ended while they held it, again and again")
        else:
            worker.enqueue(job)
