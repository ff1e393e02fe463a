"""The places of the outbox: the disk's, and memory's for tasks that gave durability up. Knows where an input is; changes no row."""

from contextlib import suppress
from pathlib import Path

from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.looking import EntryDetail, Page
from outrider_edge.outbox.payloads import PayloadMemory
from outrider_edge.outbox.rows import OpenRow
from outrider_edge.outbox.shelf import Shelf
from outrider_edge.outbox.waiting import Waiting
from outrider_edge.outbox.writer import MemoryWriter
from outrider_edge.ports import OutboxEntry
from outrider_wire.errors import OperatorSetupError
from outrider_wire.report import AnswerReport


class Shelves:
    """The disk's shelf, and memory's once something is put there."""

    def __init__(self, *, disk: Shelf, clock: RunClock) -> None:
        self.disk = disk
        self.memory: Shelf | None = None
        self._clock = clock
        self._in_memory: set[str] = set()

    def all(self) -> list[Shelf]:
        """The disk's first."""
        return [self.disk, self.memory] if self.memory is not None else [self.disk]

    def of(self, id_: str) -> list[Shelf]:
        """Where an input of that id is, or may be."""
        return [self.memory] if self.memory is not None and id_ in self._in_memory else self.all()

    def is_on(self, shelf: Shelf, id_: str) -> bool:
        """Whether an open input of that id would be there."""
        return (id_ in self._in_memory) == (shelf is self.memory)

    async def place(self, entry: OutboxEntry) -> Shelf:
        """Where a new entry goes."""
        if goes_to_disk(entry):
            return self.disk
        if self.memory is None:
            shelf = Shelf(writer=MemoryWriter(clock=self._clock), payloads=PayloadMemory())
            await shelf.writer.start()
            self.memory = self.memory or shelf
        self._in_memory.add(entry.id)
        return self.memory

    def forget(self, id_: str) -> None:
        """It is open no more, or could not be kept."""
        self._in_memory.discard(id_)

    async def stop(self) -> None:
        """Closes them."""
        for shelf in self.all():
            await shelf.writer.stop()

    # Reading

    async def report(self, id_: str) -> AnswerReport | None:
        """The newest report of an input; of a file that is out of reach nothing is known."""
        for shelf in self.of(id_):
            with suppress(OperatorSetupError):
                if (found := await shelf.writer.run(lambda store: store.report(id_))) is not None:
                    return found
        return None

    async def load(self, id_: str) -> tuple[OpenRow, list[bytes | None]] | None:
        """One open question, with the bytes of its parts (None: in the payload folder, or gone after the receipt)."""
        for shelf in self.of(id_):
            if (found := await shelf.writer.run(lambda store: store.open_row(id_))) is not None:
                return found
        return None

    async def page(self, *, after: int, limit: int, task: str = "", delivery: str = "", memory: bool = False) -> Page:
        """Open entries, the oldest first; those of tasks that gave durability up are apart (``memory``)."""
        shelf = self.memory if memory else self.disk
        if shelf is None:
            return Page(entries=[], totals=[], next=None)
        return await shelf.writer.run(
            lambda store: store.look().page(after=after, limit=limit, task=task, delivery=delivery)
        )

    async def entry(self, id_: str) -> EntryDetail | None:
        """All that is known of one entry."""
        for shelf in self.of(id_):
            if (found := await shelf.writer.run(lambda store: store.look().entry(id_))) is not None:
                return found
        return None

    async def next_open(self, limit: int) -> list[Waiting]:
        """The oldest questions to be delivered or answered that were not given out since `rewind`; empty: no more."""
        found: list[Waiting] = []
        for shelf in self.all():
            if len(found) < limit:
                found += await shelf.next_open(limit - len(found))
        return found

    async def next_spare(self, limit: int) -> list[Waiting]:
        """The next of what is kept to be learnt from and was never offered, round and round."""
        return [one for shelf in self.all() for one in await shelf.next_spare(limit)]

    def rewind(self) -> None:
        """`next_open` begins with the oldest again."""
        for shelf in self.all():
            shelf.rewind()

    def open_blob(self, sha256: str) -> bytes | Path | None:
        """Payload above the inline limit. From any thread."""
        return next((found for shelf in self.all() if (found := shelf.payloads.open(sha256)) is not None), None)


def goes_to_disk(entry: OutboxEntry) -> bool:
    """Whether it survives a restart. An audit that a restart forgets would count as an error."""
    return entry.durability == "disk" or entry.audit > 0
