"""The rules by which a blob is pulled in blocks: what to ask for, what to believe, when to give up. No I/O, no clock.

::

    next_wants ──> (asked) ── on_block ──> (in order?) ──> bytes to append ──> done
        ^             │
        └─ on_timeout ┘ (too often without a byte of progress ──> failed)        on_gone ──> failed

Blocks are handed out strictly in order, so that what has been written is always a prefix of the blob: its length alone
is enough to resume after a cut. Whether the whole has the digest that was asked for is for the one who holds the bytes.
"""

from outrider_wire.limits import BLOCK_BYTES
from outrider_wire.messages import BlobWant

SMALLEST_BLOCK = 256
ENVELOPE_BYTES = 512
"""Room for the topic, the properties and the envelope of a block in one packet."""
MOST_WANTED = 256
"""Blocks a want may ask for; the bound of `BlobWant.count`."""


def block_size(packet_limit: int, link_bytes_per_s: float | None = None) -> int:
    """Bytes of a block: what a packet holds and the link carries in 250 ms, so that no answer waits behind a model.

    Args:
        packet_limit: the broker's maximum packet size; 0 where it announced none.
        link_bytes_per_s: what the link carries, where that is known.
    """
    packet = packet_limit - ENVELOPE_BYTES if packet_limit else BLOCK_BYTES
    link = int(link_bytes_per_s / 4) if link_bytes_per_s else BLOCK_BYTES
    return max(min(packet, SMALLEST_BLOCK), min(BLOCK_BYTES, packet, link), 1)


def blocks_for(want: BlobWant, size: int) -> list[tuple[int, int]]:
    """The (offset, length) of each block that a want asks of a blob of ``size`` bytes; none beyond its end."""
    end = min(want.offset + want.count * want.block, size)
    return [(offset, min(want.block, size - offset)) for offset in range(want.offset, end, want.block)]


class Pull:
    """One blob on its way. The caller appends what `on_block` returns and sends what `next_wants` returns.

    `block` and `window` may be set anew at any time, as more is learnt of the link; what is under way stays as it was asked.

    Args:
        sha256: what is pulled, for the caller's messages.
        size: bytes of the whole.
        block: bytes of a block.
        window: how many bytes may be under way or waiting for an earlier one: the bound on memory.
        have: bytes of the blob that are there already (a prefix). More than ``size`` cannot be one: then it starts over,
            and the caller cuts its file back to `received` first.
        retries: how many timeouts in a row, without a byte of progress, are borne.
    """

    def __init__(self, *, sha256: str, size: int, block: int, window: int, have: int = 0, retries: int = 8) -> None:
        self.sha256 = sha256
        self.size = size
        self.block = block
        self.window = window
        self.retries = retries
        self.received = have if 0 <= have <= size else 0
        """Bytes handed out so far (with ``have``): always a prefix of the blob."""
        self.failed = ""
        """Why it was given up, as a reason code; '' while there is hope."""
        self.ignored = 0
        """Blocks that were of no use: repeated, never asked for, or of another length than theirs."""
        self._asked: dict[int, int] = {}
        self._early: dict[int, bytes] = {}
        self._timeouts = 0
        self._wrong_length = False

    @property
    def done(self) -> bool:
        """Whether every byte has been handed out."""
        return not self.failed and self.received == self.size

    @property
    def under_way(self) -> int:
        """Bytes that were asked for and have not come."""
        return sum(self._asked.values())

    def next_wants(self) -> list[tuple[int, int, int]]:
        """What to ask for now, as (offset, count, block) runs; empty while more than half the window is still under way."""
        if self.failed or self.done or 2 * self.under_way > self.window:
            return []
        room = max(self.window - self.under_way - sum(map(len, self._early.values())), self._least())
        runs: list[tuple[int, int, int]] = []
        for offset, length in self._missing(room):
            self._asked[offset] = length
            block = self.block if offset + length == self.size else length
            at, count, of = runs[-1] if runs else (0, 0, 0)
            if of == block and at + count * of == offset and count < MOST_WANTED:
                runs[-1] = (at, count + 1, of)
            else:
                runs.append((offset, 1, block))
        return runs

    def on_block(self, offset: int, data: bytes) -> list[tuple[int, bytes]]:
        """The (offset, bytes) that can be written now, in order; empty when an earlier block is still missing.

        A block that is repeated, that was not asked for, or that is of another length than was asked is ignored.
        """
        if self.failed or not self._useful(offset, len(data)):
            self.ignored += 1
            return []
        del self._asked[offset]
        self._early[offset] = data
        out: list[tuple[int, bytes]] = []
        while (ready := self._early.pop(self.received, None)) is not None:
            out.append((self.received, ready))
            self.received += len(ready)
            self._timeouts = 0
        return out

    def on_timeout(self) -> None:
        """Nothing useful came for a while: what was asked is asked again, or it is given up."""
        if self.failed or self.done:
            return
        self._asked.clear()
        self._timeouts += 1
        if self._timeouts > self.retries:
            self.failed = "wrong_blocks" if self._wrong_length else "timed_out"
            self._early.clear()

    def on_gone(self, reason: str) -> None:
        """The holder does not have it (any more)."""
        if not self.failed and not self.done:
            self.failed = reason or "gone"
            self._early.clear()

    def _least(self) -> int:
        """What is asked for whatever the window says: one block where nothing is under way, or it would never go on."""
        return 0 if self._asked else self.block

    def _missing(self, room: int) -> list[tuple[int, int]]:
        """(offset, length) of the next blocks that were not asked for, in order, of ``room`` bytes together."""
        held = {offset: len(data) for offset, data in self._early.items()} | self._asked
        missing: list[tuple[int, int]] = []
        at = self.received
        for begin in [*sorted(held), self.size]:
            while at < begin and room > 0:
                length = min(self.block, begin - at)
                if length > room and missing:
                    return missing
                missing.append((at, length))
                at, room = at + length, room - length
            if at < begin:
                return missing
            at = begin + held.get(begin, 0)
        return missing

    def _useful(self, offset: int, length: int) -> bool:
        if (asked := self._asked.get(offset)) is None:
            return False
        if length != asked:
            self._wrong_length = True
            return False
        return True
