"""The watch over every certificate, and shadow mode's counts, live in memory: what they say now, and what is not on the disk yet. No I/O.

The disk leads: a watch in memory is the last one that was committed, plus the audits that could not even be kept and wait
to be written.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from outrider_edge.outbox.watching import KEPT_SHADOW, Moved, ShadowTally, moved
from outrider_edge.ports import ShadowCounts, ShadowEntry, Watched
from outrider_wire.monitor import Monitor, resumed

Key = tuple[str, str]
"""Task and certificate."""


@dataclass(frozen=True, kw_only=True)
class Unwritten:
    """What a flush has to write."""

    begun: list[Watched]
    missed: dict[Key, int]
    shadow: list[ShadowEntry]

    def __bool__(self) -> bool:
        return bool(self.begun or self.missed or self.shadow)


class Watches:
    """Watches by task and certificate."""

    def __init__(self) -> None:
        self._live: dict[Key, Watched] = {}
        self._unsaved: dict[Key, Watched] = {}
        self._missed: Counter[Key] = Counter()
        self._writing: Counter[Key] = Counter()
        self._shadow: list[ShadowEntry] = []
        self._seen: Counter[Key] = Counter()
        self._would_send: Counter[Key] = Counter()

    def load(self, watched: Iterable[Watched], tally: ShadowTally) -> None:
        """Takes up what the disk holds."""
        self._live |= {(one.task, one.certificate): one for one in watched}
        for (task, model, would), n in tally.items():
            self._seen[task, model] += n
            self._would_send[task, model] += n * would

    def of(self, task: str, certificate: str) -> Watched | None:
        """A watch as it stands, unwritten audits counted."""
        return self._live.get((task, certificate))

    def begin(self, task: str, certificate: str, wanted: Monitor) -> Watched:
        """The watch to go on with; one that the disk does not know yet is `unsaved`."""
        key = (task, certificate)
        old = self._live.get(key)
        monitor = resumed(old.monitor if old else None, wanted)
        if old is not None and old.monitor is monitor:
            return old
        new = Watched(task=task, certificate=certificate, monitor=monitor)
        self._live[key] = self._unsaved[key] = new
        return new

    def unsaved(self) -> list[Watched]:
        """What began and is not on the disk."""
        return list(self._unsaved.values())

    def forgotten(self) -> None:
        """The disk may hold none of the watches any more: what is live here is what it must hold."""
        self._unsaved = dict(self._live)

    def saved(self, begun: Iterable[Watched]) -> None:
        """It is on the disk."""
        for one in begun:
            self._unsaved.pop((one.task, one.certificate), None)

    def missed(self, task: str, certificate: str, now_ms: int) -> Moved | None:
        """One more audit that will never be answered; None: that certificate is not watched."""
        key = (task, certificate)
        if key not in self._live:
            return None
        self._missed[key] += 1
        after = moved(self._live[key], [1], now_ms)
        self._live[key] = after.watched
        return after

    def committed(self, after: Moved, now_ms: int) -> Watched:
        """What the disk holds now; the watch as it stands."""
        key = (after.watched.task, after.watched.certificate)
        ahead = self._missed[key] + self._writing[key]
        self._live[key] = moved(after.watched, [1] * ahead, now_ms).watched
        return self._live[key]

    def shadowed(self, entry: ShadowEntry) -> None:
        """One more input of shadow mode; when the disk refuses too many, the oldest unwritten ones go."""
        self._shadow.append(entry)
        self._seen[entry.task, entry.model] += 1
        self._would_send[entry.task, entry.model] += entry.would_send
        del self._shadow[:-KEPT_SHADOW]

    def shadow_counts(self, task: str, model: str) -> ShadowCounts:
        """How many inputs, and how many of them would have been sent."""
        return ShadowCounts(seen=self._seen[task, model], would_send=self._would_send[task, model])

    def take_unwritten(self) -> Unwritten:
        """What is to be written now."""
        what = Unwritten(
            begun=self.unsaved(), missed={key: n for key, n in self._missed.items() if n}, shadow=self._shadow
        )
        self._writing.update(what.missed)
        self._missed, self._shadow = Counter(), []
        return what

    def written(self, what: Unwritten, after: Iterable[Moved], now_ms: int) -> None:
        """It is on the disk."""
        self._writing.subtract(what.missed)
        for one in after:
            self.committed(one, now_ms)

    def not_written(self, what: Unwritten) -> None:
        """It could not be: next time."""
        self._writing.subtract(what.missed)
        self._missed.update(what.missed)
        self._shadow = (what.shadow + self._shadow)[-KEPT_SHADOW:]
