"""What has ended on this device: kept in the ledger, where a lost record cannot lose it, and told from there. Everything blocks."""

import logging
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from outrider_edge.updates.ledger import MAX_ENDS, MAX_RAN, Ledger, LedgerFile
from outrider_edge.updates.record import MAX_REFUSED, SETTLED, Record
from outrider_wire.errors import OutriderError
from outrider_wire.messages import Ended
from outrider_wire.rollout import DeviceOrder, PlannedRelease

log = logging.getLogger(__name__)


class Endings:
    """Keeps ends.

    Args:
        ledger: where.
        now_ms: UTC.
        committed: told a task and the release counter that was committed.
    """

    def __init__(self, *, ledger: LedgerFile, now_ms: Callable[[], int], committed: Callable[[str, int], None]) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self._committed = committed

    def ended(self, task: str, before: Record, after: Record) -> None:
        """An order has ended for a task, or a release was refused.

        Raises:
            OSError: it cannot be kept now.
        """
        committed = after.state == "committed" and before.state == "probation"
        self._keep(task, after, ran=committed or before.state in SETTLED)
        if committed:
            try:
                self._committed(task, after.release_counter)
            except OutriderError as error:  # the ledger has it too
                log.error("update.floor_not_raised", extra={"task": task, "what": str(error)})
        if before.state not in SETTLED:
            self._tell(task, after, release=after.running if committed else before.offered)

    def denied(self, order: DeviceOrder, planned: PlannedRelease, error: OutriderError) -> None:
        """An order was refused before anything of it began; as `ended`."""
        self._one_more(
            Ended(
                sequence=0,
                task=planned.task,
                order=order.number,
                rollout=order.rollout,
                release=planned.release,
                outcome="refused",
                code=error.reason[:64],
                reason=error.what[:256],
                clock_ms=max(0, self._now_ms()),
            )
        )

    def catch_up(self, records: Mapping[str, Record]) -> None:
        """What ended while the process started, or just before the power went; as `ended`."""
        for task, record in records.items():
            if record.state not in SETTLED:
                continue
            self._keep(task, record, ran=True)
            told = any(end.task == task and end.order == record.ended for end in self._ledger.now.ends)
            if record.ended and not told:
                self._tell(task, record, release=record.offered or record.running)

    def _keep(self, task: str, record: Record, *, ran: bool) -> None:
        kept = self._ledger.task(task)
        names = [*(known for known in kept.ran if known != record.running), record.running]
        changed = replace(
            kept,
            refused=list(dict.fromkeys([*kept.refused, *record.refused]))[-MAX_REFUSED:],
            ran=names[-MAX_RAN:] if ran else kept.ran,
        )
        if record.floor > kept.floor:
            release = record.running if record.floor == record.release_counter else ""
            changed = replace(changed, floor=record.floor, floor_release=release)
        self._ledger.keep_task(task, changed)

    def _tell(self, task: str, record: Record, *, release: str) -> None:
        self._one_more(
            Ended(
                sequence=0,
                task=task,
                order=record.ended,
                rollout=record.rollout,
                release=release,
                outcome=record.outcome,
                code=record.code[:64],
                reason=record.reason[:256],
                clock_ms=max(0, self._now_ms()),
            )
        )

    def _one_more(self, ended: Ended) -> None:
        def one_more(now: Ledger) -> Ledger:
            last = replace(ended, sequence=now.ended + 1)
            return replace(now, ended=now.ended + 1, ends=[*now.ends, last][-MAX_ENDS:])

        self._ledger.keep(one_more)
