"""The watch over certificates and shadow mode's record, live and on the disk: `outrider_edge.ports.WatchPort`. Runs on one event loop."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from outrider_edge.outbox.outcomes import is_watched
from outrider_edge.outbox.rows import Audited, OutboxStore
from outrider_edge.outbox.watches import Unwritten, Watches
from outrider_edge.outbox.watching import Moved
from outrider_edge.outbox.writer import Writer
from outrider_edge.ports import AuditEnded, OnAudit, ShadowCounts, ShadowEntry, Watched
from outrider_wire.monitor import Monitor
from outrider_wire.report import AnswerReport


class WatchDesk:
    """What the outbox knows of audits.

    Args:
        writer: of the file; open before this is used.
        flush_soon: asks for `write` within a second.
    """

    def __init__(self, *, writer: Writer, flush_soon: Callable[[], None]) -> None:
        self._writer = writer
        self._flush_soon = flush_soon
        self._live = Watches()
        self._on_audit: OnAudit | None = None

    async def start(self) -> None:
        """Takes up what the disk holds."""
        self._live.load(*await self._writer.run(lambda store: (store.monitors.all(), store.shadow.tally())))

    def mended(self) -> None:
        """The file was damaged, and is another now: every watch goes there as it stands, with the next flush."""
        self._live.forgotten()
        self._flush_soon()

    def listen(self, on_audit: OnAudit) -> None:
        """Names whom to tell of ended audits."""
        self._on_audit = on_audit

    def watch(self, task: str, certificate: str, wanted: Monitor) -> Watched:
        """The saved monitor of that certificate goes on, or ``wanted`` begins."""
        watched = self._live.begin(task, certificate, wanted)
        if begun := self._live.unsaved():
            self._writer.run(partial(begin, begun=begun), done=lambda _: self._live.saved(begun)).add_done_callback(
                lambda saved: (
                    saved.cancelled() or saved.exception()
                )  # a failure is logged there; the next flush tries again
            )
        return watched

    def watched(self, task: str, certificate: str) -> Watched | None:
        """The watch over that certificate as it stands."""
        return self._live.of(task, certificate)

    def audit_missed(self, report: AnswerReport) -> None:
        """An audit could not be kept: counted at once, written with the next flush."""
        if is_watched(report):
            after = self._live.missed(report.task, report.certificate, now_ms())
            self._flush_soon()
            self._tell(report, 1, after)

    def shadowed(self, entry: ShadowEntry) -> None:
        """What shadow mode would have done, written with the next flush."""
        self._live.shadowed(entry)
        self._flush_soon()

    def shadow_counts(self, task: str, model: str) -> ShadowCounts:
        """How many inputs that was said of."""
        return self._live.shadow_counts(task, model)

    async def shadow_entries(self, task: str, limit: int = 100) -> list[ShadowEntry]:
        """The newest inputs of shadow mode, as the disk has them."""
        return await self._writer.run(lambda store: store.shadow.newest(task, limit))

    # What the outbox does

    def unsaved(self) -> list[Watched]:
        """Watches that began and are not on the disk: whatever settles an audit writes them first."""
        return self._live.unsaved()

    def ended(self, audit: Audited) -> None:
        """An audit is settled, and the disk holds the monitor that it moved."""
        if audit.moved is not None:
            self._live.committed(audit.moved, now_ms())
        self._tell(audit.report, audit.loss, audit.moved)

    def take_unwritten(self) -> Unwritten:
        """What the next flush has to write with `write`."""
        return self._live.take_unwritten()

    def written(self, what: Unwritten, moved: Sequence[Moved]) -> None:
        """That flush is durable."""
        self._live.saved(what.begun)
        self._live.written(what, moved, now_ms())

    def not_written(self, what: Unwritten) -> None:
        """It failed: next time."""
        self._live.not_written(what)

    def _tell(self, report: AnswerReport, loss: int, after: Moved | None) -> None:
        if self._on_audit is not None:
            watched = self.watched(report.task, report.certificate) if after else None
            alarm = after is not None and after.alarm
            self._on_audit(AuditEnded(report=report, loss=loss, watched=watched, alarm=alarm))


def write(store: OutboxStore, what: Unwritten, now_ms: int) -> list[Moved]:
    """Writes what was unwritten; the monitors that it moved."""
    begin(store, what.begun)
    store.shadow.add(what.shadow)
    after = [store.monitors.observe(*key, [1] * n, now_ms) for key, n in what.missed.items()]
    return [moved for moved in after if moved is not None]


def begin(store: OutboxStore, begun: Sequence[Watched]) -> None:
    """Makes sure that these watches are kept."""
    for watched in begun:
        store.monitors.begin(watched)


def now_ms() -> int:
    """UTC by this device's clock."""
    return time.time_ns() // 1_000_000
