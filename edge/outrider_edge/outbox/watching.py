"""The rows of the watch over certificates, and of shadow mode. Runs inside a transaction that its caller opens and commits."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from outrider_edge.outbox.coding import decoded
from outrider_edge.ports import ShadowEntry, Watched
from outrider_wire.monitor import observe, resumed

KEPT_MONITORS = 16
"""Certificates a task whose watch is remembered, so that going back to one does not forget its alarm."""
KEPT_SHADOW = 10_000
"""Inputs of shadow mode that are kept one by one."""

WATCHED = msgspec.msgpack.Decoder(Watched)
_ENCODER = msgspec.msgpack.Encoder()

ShadowTally = Mapping[tuple[str, str, bool], int]
"""(task, model, would send) → inputs."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A watch after one or more audits."""

    watched: Watched
    alarm: bool
    """These audits raised the alarm."""


def moved(watched: Watched, losses: Sequence[int], now_ms: int) -> Moved:
    """The watch after those audits, in their order."""
    monitor = watched.monitor
    for loss in losses:
        monitor = observe(monitor, loss)
    alarm = monitor.alarmed and not watched.monitor.alarmed
    return Moved(
        watched=replace(watched, monitor=monitor, alarm_since_ms=now_ms if alarm else watched.alarm_since_ms),
        alarm=alarm,
    )


class MonitorRows:
    """One row a task and certificate."""

    def __init__(self, *, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def all(self) -> list[Watched]:
        """Every watch that is remembered, the oldest first."""
        return [decoded(WATCHED, state) for (state,) in self._sql.execute("SELECT state FROM monitor ORDER BY seq")]

    def begin(self, watched: Watched) -> None:
        """Makes sure that this watch is kept: the one that is here goes on, if it may. Repeated, it changes nothing.

        The oldest beyond `KEPT_MONITORS` of its task are forgotten.
        """
        found = self._find(watched.task, watched.certificate)
        old = found[1].monitor if found else None
        if old is not None and resumed(old, watched.monitor) is old:
            return
        self._sql.execute(
            "INSERT INTO monitor (task, certificate, state) VALUES (?, ?, ?)"
            " ON CONFLICT (task, certificate) DO UPDATE SET state = excluded.state",
            (watched.task, watched.certificate, _ENCODER.encode(watched)),
        )
        self._sql.execute(
            "DELETE FROM monitor WHERE task = ? AND seq <= "
            "(SELECT seq FROM monitor WHERE task = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (watched.task, watched.task, KEPT_MONITORS),
        )

    def observe(self, task: str, certificate: str, losses: Sequence[int], now_ms: int) -> Moved | None:
        """Counts audits; None: that certificate is not watched."""
        if (found := self._find(task, certificate)) is None:
            return None
        seq, watched = found
        after = moved(watched, losses, now_ms)
        self._sql.execute("UPDATE monitor SET state = ? WHERE seq = ?", (_ENCODER.encode(after.watched), seq))
        return after

    def _find(self, task: str, certificate: str) -> tuple[int, Watched] | None:
        found = self._sql.execute(
            "SELECT seq, state FROM monitor WHERE task = ? AND certificate = ?", (task, certificate)
        ).fetchone()
        return (found[0], decoded(WATCHED, found[1])) if found else None


class ShadowRows:
    """What shadow mode would have done."""

    def __init__(self, *, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def add(self, entries: Sequence[ShadowEntry]) -> None:
        """Writes and counts them; the oldest beyond `KEPT_SHADOW` go, their counts stay."""
        self._sql.executemany(
            "INSERT INTO shadow (task, id, at_ms, model, score, why, would_send) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(e.task, e.id, e.at_ms, e.model, e.score, e.why, e.would_send) for e in entries],
        )
        self._sql.executemany(
            "INSERT INTO shadow_tally VALUES (?, ?, ?, ?)"
            " ON CONFLICT (task, model, would_send) DO UPDATE SET n = n + excluded.n",
            [(*key, n) for key, n in tally_of(entries).items()],
        )
        self._sql.execute("DELETE FROM shadow WHERE seq <= (SELECT max(seq) FROM shadow) - ?", (KEPT_SHADOW,))

    def tally(self) -> dict[tuple[str, str, bool], int]:
        """How many there were."""
        rows = self._sql.execute("SELECT task, model, would_send, n FROM shadow_tally")
        return {(task, model, bool(would)): n for task, model, would, n in rows}

    def newest(self, task: str, limit: int) -> list[ShadowEntry]:
        """The newest of a task, the newest first."""
        rows = self._sql.execute(
            "SELECT id, at_ms, model, score, why, would_send FROM shadow WHERE task = ? ORDER BY seq DESC LIMIT ?",
            (task, limit),
        )
        return [
            ShadowEntry(task=task, id=id_, at_ms=at_ms, model=model, score=score, why=why, would_send=bool(would))
            for id_, at_ms, model, score, why, would in rows
        ]


def tally_of(entries: Sequence[ShadowEntry]) -> Counter[tuple[str, str, bool]]:
    """How many of each kind."""
    return Counter((entry.task, entry.model, entry.would_send) for entry in entries)
