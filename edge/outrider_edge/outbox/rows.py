"""The outbox's rows: every statement that touches them. Runs in one thread, inside a transaction that its caller opens and commits.

A row joins two lives: ``state`` (of the answer; set once) and ``delivery`` (of the question). An audit is answered from the
first moment and still has a question to deliver.
"""
# ruff: noqa: S608 - statements are put together from constants of this module; every value is bound

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from outrider_edge.outbox.accounts import Counts
from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.coding import ENCODER, ENVELOPE, REPORT, decoded, seconds, whole
from outrider_edge.outbox.looking import LookRows
from outrider_edge.outbox.outcomes import Answered, Expired, Outcome, audit_loss, fault_of, final_report, is_watched
from outrider_edge.outbox.policy import Held, Need, Standing, Worth, worth_of
from outrider_edge.outbox.states import Delivery
from outrider_edge.outbox.waiting import WaitingRows
from outrider_edge.outbox.watching import MonitorRows, Moved, ShadowRows
from outrider_edge.ports import OutboxEntry
from outrider_wire.messages import Escalation
from outrider_wire.report import Account, AnswerReport, State, account_from

_SEEN_EVERY_S = 1.0
"""How often a file that is written all the time notes for how long this boot has run."""


@dataclass(frozen=True, kw_only=True)
class OpenRow:
    """One question that is still to be delivered or answered."""

    id: str
    received: bool
    """The cloud has stored it; its payload is no longer here."""
    offers: int
    age_s: float
    """Run time since it was accepted, when this row was read."""
    envelope: Escalation
    payload_bytes: int
    """Still held."""


@dataclass(frozen=True, kw_only=True)
class NewRow:
    """What is written of one entry, encoded before the transaction begins."""

    report: AnswerReport
    state: State
    audit: bool
    report_data: bytes
    envelope_data: bytes
    parts: tuple[tuple[str, bytes | None], ...]
    """(sha256, the bytes or None when they lie in the payload folder), in the envelope's order; then the full forms."""
    payload_bytes: int
    keep_s: float
    worth: Worth
    gain: float
    at_s: float
    """Run time from which its deadline counts: when it was handed over, however long the disk takes."""

    @classmethod
    def of(
        cls,
        entry: OutboxEntry,
        envelope: Escalation,
        parts: Sequence[bytes | None],
        *,
        fulls: Mapping[str, bytes],
        at_s: float,
    ) -> "NewRow":
        """Encodes an entry; ``parts`` in the envelope's order, ``fulls`` (by digest) lie in the payload folder."""
        worth, gain = worth_of(envelope, entry.state)
        return cls(
            keep_s=envelope.keep_for_s,
            worth=worth,
            gain=gain,
            at_s=at_s,
            report=entry.report,
            state=entry.state,
            audit=entry.report.audited,
            report_data=ENCODER.encode(entry.report),
            envelope_data=ENCODER.encode(envelope),
            parts=(
                *((part.sha256, data) for part, data in zip(envelope.parts, parts, strict=True)),
                *((sha256, None) for sha256 in fulls),
            ),
            payload_bytes=sum(part.size for part in envelope.parts) + sum(map(len, fulls.values())),
        )

    def counts(self) -> Counts:
        """What it adds to the account when it is written; `Account.pending` is counted from the rows themselves."""
        counts = {"received": 1, "audited": int(self.audit)}
        return counts if self.state == "pending" else counts | terminal_counts(self.report)


@dataclass(frozen=True, kw_only=True)
class Freed:
    """What a statement let go: payload bytes, and the digests in the payload folder that no row refers to now."""

    payload_bytes: int = 0
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Audited:
    """An audit that has just ended."""

    report: AnswerReport
    loss: int
    moved: Moved | None


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What settling did."""

    known: bool
    """False: no such input was ever asked, or it was forgotten long after its end."""
    fault: str = ""
    """Why the answer cannot be one to this input; the question stays open."""
    closed: bool = False
    """The question is done with just now."""
    report: AnswerReport | None = None
    """The final report, if it was set just now."""
    counts: Counts = field(default_factory=dict)
    freed: Freed = Freed()
    audit: Audited | None = None
    """What it says of the certificate, if it was an audit."""


class OutboxStore:
    """The rows of one file (or of memory), over an open connection of the newest schema."""

    def __init__(self, *, connection: sqlite3.Connection, clock: RunClock) -> None:
        self._sql = connection
        self._clock = clock
        self._seen_s = float("-inf")
        self.waiting = WaitingRows(connection=connection)
        self.monitors = MonitorRows(connection=connection)
        self.shadow = ShadowRows(connection=connection)

    def enter_boot(self) -> None:
        """At start: what other boots left gets its age so far, and is counted on from now."""
        meta = dict(self._sql.execute("SELECT name, value FROM meta").fetchall())
        now = self._clock.now()
        if meta.get("boot_id") != self._clock.boot_id:
            seen_s = seconds(meta.get("seen_s", "0"))
            self._sql.execute(
                "UPDATE input SET age_s = age_s + max(0.0, ? - at_s), at_s = ? WHERE delivery <> 'done'", (seen_s, now)
            )
        self.touch()

    def is_of_this_boot(self) -> bool:
        """Whether `enter_boot` has nothing to do."""
        return self.remembered().get("boot_id") == self._clock.boot_id

    def touch(self) -> None:
        """Remembers that this boot has run until now, give or take `_SEEN_EVERY_S`."""
        now = self._clock.now()
        if now - self._seen_s < _SEEN_EVERY_S:
            return
        self._seen_s = now
        self._sql.executemany(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [("boot_id", self._clock.boot_id), ("seen_s", repr(now))],
        )

    def remember(self, notes: Mapping[str, str]) -> None:
        """Keeps texts by name, the newest of each."""
        self._sql.executemany(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            list(notes.items()),
        )

    def remembered(self) -> dict[str, str]:
        """What was kept by `remember`, and this module's own notes."""
        return dict(self._sql.execute("SELECT name, value FROM meta").fetchall())

    def put(self, row: NewRow) -> int:
        """Writes an input and counts it; its place in the order of arrival, or 0 when its id is here already."""
        report = row.report
        found = self._sql.execute(
            "INSERT INTO input (id, task, state, delivery, report, envelope, bytes, at_s, keep_s, worth, gain)"
            " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING seq",
            (
                report.id,
                report.task,
                row.state,
                row.report_data,
                row.envelope_data,
                row.payload_bytes,
                row.at_s,
                row.keep_s,
                row.worth,
                row.gain,
            ),
        ).fetchone()
        if found is None:
            return 0
        seq: int = found[0]
        self._sql.executemany(
            "INSERT INTO part VALUES (?, ?, ?, ?)",
            [(seq, place, sha256, data) for place, (sha256, data) in enumerate(row.parts)],
        )
        self.count(report.task, row.counts())
        return seq

    def count(self, task: str, counts: Counts) -> None:
        """Adds to a task's account."""
        self._sql.executemany(
            "INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT (task, name) DO UPDATE SET value = value + excluded.value",
            [(task, name, value) for name, value in counts.items() if value],
        )

    def offered(self, id_: str, offers: int) -> None:
        """It has been on the wire ``offers`` times more."""
        self._sql.execute(
            "UPDATE input SET offers = offers + ?, delivery = iif(delivery = 'queued', 'offered', delivery)"
            " WHERE id = ? AND delivery <> 'done'",
            (offers, id_),
        )

    def received(self, id_: str) -> Freed | None:
        """The cloud has it: its payload goes. None when that was known, or no such question is open."""
        found = self._sql.execute(
            "UPDATE input SET delivery = 'received' WHERE id = ? AND delivery IN ('queued', 'offered')"
            " RETURNING seq, bytes",
            (id_,),
        ).fetchone()
        if found is None:
            return None
        self._sql.execute("UPDATE input SET bytes = 0 WHERE seq = ?", (found[0],))
        return self._free(*found)

    def settle(self, id_: str, outcome: Outcome, *, now_ms: int = 0) -> Settled:
        """Ends a question; sets the input's terminal state if it has none yet. The first outcome wins.

        Of an audit, the loss moves the monitor in this same transaction: none is lost, and none counts twice.
        """
        found = self._sql.execute(
            "SELECT seq, state, delivery, report, envelope, age_s + ? - at_s, bytes FROM input WHERE id = ?",
            (self._clock.now(), id_),
        ).fetchone()
        if found is None:
            return Settled(known=False)
        seq, state, delivery, report_data, envelope_data, age_s, held = found
        if delivery == "done":
            return Settled(known=True)
        before = decoded(REPORT, report_data)
        if isinstance(outcome, Answered) and (fault := fault_of(outcome.answer, before)):
            return Settled(known=True, fault=fault)
        freed = Freed() if delivery == "received" else self._free(seq, held)
        if state != "pending":
            self._sql.execute(f"UPDATE input SET {_DONE} WHERE seq = ?", (seq,))
            audit = self._audited(before, outcome, now_ms) if before.audited else None
            return Settled(known=True, closed=True, freed=freed, audit=audit)
        within_ms = decoded(ENVELOPE, envelope_data).answer_within_ms
        report = final_report(before, outcome, age_s=age_s, answer_within_ms=within_ms)
        self._sql.execute(
            f"UPDATE input SET {_DONE}, state = ?, report = ? WHERE seq = ?",
            (report.state, ENCODER.encode(report), seq),
        )
        counts = terminal_counts(report)
        self.count(report.task, counts)
        return Settled(known=True, closed=True, report=report, counts=counts, freed=freed)

    def settle_all(self, ids: Sequence[str], outcome: Outcome, *, now_ms: int = 0) -> list[tuple[str, Settled]]:
        """`settle` for several."""
        return [(id_, self.settle(id_, outcome, now_ms=now_ms)) for id_ in ids]

    def expire(self, limit: int, *, now_ms: int = 0) -> list[tuple[str, Settled]]:
        """Ends what is not worth asking any more, the oldest first, ``limit`` at most."""
        return self.settle_all(self.waiting.expired(self._clock.now(), limit), Expired(), now_ms=now_ms)

    def chosen(self, newcomer: Standing, need: Need) -> Sequence[Held] | None:
        """Who makes way for a new entry, by `outrider_edge.outbox.policy`."""
        return self.waiting.victims(newcomer, need, self._clock.now())

    def report(self, id_: str) -> AnswerReport | None:
        """The newest report of an input."""
        found = self._sql.execute("SELECT report FROM input WHERE id = ?", (id_,)).fetchone()
        return decoded(REPORT, found[0]) if found else None

    def open_rows(self) -> list[OpenRow]:
        """Every open question, oldest first."""
        rows = self._sql.execute(f"{_OPEN_ROW} WHERE delivery <> 'done' ORDER BY seq", (self._clock.now(),))
        return [_open_row(row) for row in rows]

    def open_row(self, id_: str) -> tuple[OpenRow, list[bytes | None]] | None:
        """One open question with the inline bytes of its parts (None: in the payload folder, or gone after the receipt)."""
        found = self._sql.execute(
            f"{_OPEN_ROW} WHERE id = ? AND delivery <> 'done'", (self._clock.now(), id_)
        ).fetchone()
        if found is None:
            return None
        row = _open_row(found)
        data: list[bytes | None] = [None] * len(row.envelope.parts)
        parts = self._sql.execute(
            "SELECT position, data FROM part WHERE seq = (SELECT seq FROM input WHERE id = ?) AND position < ?",
            (id_, len(data)),
        )
        for position, value in parts:
            data[position] = value
        return row, data

    def look(self) -> LookRows:
        """What people see, as of now."""
        return LookRows(connection=self._sql, now=self._clock.now())

    def accounts(self) -> dict[str, Account]:
        """The account of every task. ``pending`` is counted from the rows, not from what was added up."""
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for task, name, value in self._sql.execute("SELECT task, name, value FROM tally"):
            counts[task][name] = whole(value)
        for task, value in self._sql.execute("SELECT task, count(*) FROM input WHERE state = 'pending' GROUP BY task"):
            counts[task]["pending"] = value
        return {task: account_from(values) for task, values in counts.items()}

    def unreferenced(self, digests: Sequence[str]) -> list[str]:
        """Those of the payload folder that no row refers to."""
        wanted = "SELECT 1 FROM part WHERE sha256 = ? AND data IS NULL"
        return [sha256 for sha256 in digests if self._sql.execute(wanted, (sha256,)).fetchone() is None]

    def prune(self, keep: int) -> None:
        """Forgets ended inputs other than the ``keep`` that ended last; their counts stay.

        The newest arrival and the last to end stay in any case: the next ones are numbered after them.
        """
        self._sql.execute(
            "DELETE FROM input WHERE ended <= (SELECT max(ended) FROM input WHERE ended IS NOT NULL) - ?"
            " AND seq < (SELECT max(seq) FROM input)",
            (max(keep, 1),),
        )

    def _audited(self, report: AnswerReport, outcome: Outcome, now_ms: int) -> Audited:
        loss, watched = audit_loss(report, outcome), is_watched(report)
        moved = self.monitors.observe(report.task, report.certificate, [loss], now_ms) if watched else None
        return Audited(report=report, loss=loss, moved=moved)

    def _free(self, seq: int, held: int) -> Freed:
        """Lets the ``held`` bytes of an input's payload go; its row is the caller's to change."""
        filed = self._sql.execute("SELECT DISTINCT sha256 FROM part WHERE seq = ? AND data IS NULL", (seq,)).fetchall()
        self._sql.execute("DELETE FROM part WHERE seq = ?", (seq,))
        unused = tuple(
            sha256
            for (sha256,) in filed
            if not self._sql.execute("SELECT 1 FROM part WHERE sha256 = ?", (sha256,)).fetchone()
        )
        return Freed(payload_bytes=held, unused=unused)


_OPEN_ROW = "SELECT id, delivery, offers, age_s + ? - at_s, envelope, bytes, keep_s FROM input"
_DONE = "delivery = 'done', bytes = 0, ended = (SELECT coalesce(max(ended), 0) + 1 FROM input WHERE ended IS NOT NULL)"


def _open_row(row: tuple[str, Delivery, int, float, bytes, int, float]) -> OpenRow:
    id_, delivery, offers, age_s, data, held, keep_s = row
    envelope = decoded(ENVELOPE, data)
    if keep_s < envelope.keep_for_s:
        envelope = replace(envelope, keep_for_s=int(keep_s))
    return OpenRow(
        id=id_,
        received=delivery == "received",
        offers=offers,
        age_s=max(0.0, age_s),
        envelope=envelope,
        payload_bytes=held,
    )


def terminal_counts(report: AnswerReport) -> dict[str, int]:
    """What a terminal report adds to the account: its state, and what is true of it besides.

    ``uncertified``: it was answered on the device, by its model or from memory, and no certificate covers that.
    """
    own = report.answered_by in ("edge", "memory") and not report.certified
    return {report.state: 1, "late": int(report.late), "uncertified": int(own)}
