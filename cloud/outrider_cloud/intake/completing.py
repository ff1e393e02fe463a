"""Gets the full forms of an escalation whose first ones did not suffice, and has them stored before anybody is told.

The device has had no receipt yet and holds what it offered. Should this process end in between, the claim in the store still
names the full forms, and whoever takes it over, or is offered it again, finds them where they were.
"""

import asyncio
import logging

from outrider_cloud.answering.forms import completed, unseen
from outrider_cloud.answering.settler import Settler
from outrider_cloud.intake.jobs import Job
from outrider_cloud.intake.pulls import Pulls
from outrider_wire.errors import BundleDamagedError, OutriderError, PeerError

log = logging.getLogger(__name__)

TRIES = 3
"""Pulls of one input from a device that does not answer; each is patient in itself."""
_PAUSE_S = 5.0


class Completing:
    """`outrider_cloud.answering.ports.Completer` over the broker and the store."""

    def __init__(self, *, pulls: Pulls, settler: Settler, pause_s: float = _PAUSE_S) -> None:
        self._pulls = pulls
        self._settler = settler
        self._pause_s = pause_s

    async def complete(self, job: Job) -> bool:
        """Puts the full forms into the job, as durably as its task asks. False: they cannot be had."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        for turn in range(TRIES):
            try:
                await self._pull(job)
            except (OutriderError, OSError) as error:
                gone = isinstance(error, PeerError | BundleDamagedError)
                reason = error.reason if isinstance(error, OutriderError) else "disk"
                log.warning("full_form.unfetched", extra={"device": job.device, "input": job.id, "reason": reason})
                if gone or turn + 1 == TRIES or loop.time() + self._pause_s >= job.keep_until:
                    return False
                await asyncio.sleep(self._pause_s)
            else:
                break
        job.ms["pull"] = job.ms.get("pull", 0.0) + (loop.time() - started) * 1000
        await self._settler.restate(job)
        return True

    async def _pull(self, job: Job) -> None:
        keep = job.task.privacy.keep_examples
        wanted = unseen(job.escalation)
        fetched = {part.name: await self._pulls.fetch(job.device, part, keep=keep) for part in wanted}
        job.escalation = completed(job.escalation, fetched)
