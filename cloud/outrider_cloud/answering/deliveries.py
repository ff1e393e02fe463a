"""Which replies have reached the broker: noted lazily, so that after a crash some are sent twice and none is forgotten.

A device that has its receipt may wait in silence; the answer must come to it whatever happened here in between.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from outrider_cloud.clock import now_ms
from outrider_cloud.intake.replies import Replies
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_wire.codec import MSGPACK, decode
from outrider_wire.errors import OutriderError
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Answer, Receipt, Refusal

log = logging.getLogger(__name__)

_PAGE = 500
"""Replies that are read at once: after a long outage there may be very many."""


Heard = asyncio.Queue[Receipt | Answer | Refusal]


class Deliveries:
    """Remembers what was taken, sends again what was not."""

    def __init__(self, *, name: str, store: Store, replies: Replies, metrics: Metrics) -> None:
        self._name = name
        self._store = store
        self._replies = replies
        self._metrics = metrics
        self._taken: dict[tuple[str, str], None] = {}
        self._listeners: dict[tuple[str, str], list[Heard]] = {}

    async def send(
        self,
        device: str,
        reply: Receipt | Answer | Refusal,
        *,
        content_type: str = MSGPACK,
        correlation: bytes | None = None,
        expiry_s: float | None = None,
        committed: bool = False,
    ) -> bool:
        """Sends a reply (see `Replies.send`), and tells whoever listens here; a ``committed`` one that was taken is noted.

        Returns:
            Whether anybody took it.
        """
        listeners = self._listeners.get((device, reply.id), ())
        for heard in listeners:
            heard.put_nowait(reply)
        taken = await self._replies.send(
            device, reply, content_type=content_type, correlation=correlation, expiry_s=expiry_s
        )
        taken = taken or bool(listeners)
        if taken and committed:
            self._taken[(device, reply.id)] = None
        return taken

    @contextmanager
    def heard(self, device: str, input_id: str) -> Iterator[Heard]:
        """What is said to a device about one input, from now on until the block ends."""
        key, heard = (device, input_id), Heard()
        self._listeners.setdefault(key, []).append(heard)
        try:
            yield heard
        finally:
            self._listeners[key].remove(heard)
            if not self._listeners[key]:
                del self._listeners[key]

    async def flush(self) -> None:
        """Makes what was noted durable."""
        if self._taken:
            keys = list(self._taken)
            await self._store.write(partial(inputs.mark_sent, keys=keys))
            for key in keys:
                self._taken.pop(key, None)

    async def resend(self) -> None:
        """Sends every reply again that is not known to have been taken: after a start, and after each reconnection."""
        await self.flush()
        stamp, sent, after = now_ms(), 0, ("", "")
        while rows := await self._store.read(
            partial(inputs.unsent, worker=self._name, now_ms=stamp, after=after, most=_PAGE)
        ):
            after, sent = (rows[-1]["device"], rows[-1]["id"]), sent + len(rows)
            await self._resend_page(rows, stamp)
        if sent:
            log.info("replies.resent", extra={"count": sent})

    async def _resend_page(self, rows: Sequence[Mapping[str, Any]], stamp: int) -> None:
        for row in rows:
            try:
                reply = decode(row["reply"], limit=BLOB_BYTES)
            except (OutriderError, TypeError, ValueError) as error:  # one damaged row must not hold the others back
                what = {"device": row["device"], "input": row["id"], "what": str(error)[:512]}
                log.error("reply.unreadable", extra=what)
                self._metrics.error("stored_reply")
                continue
            if isinstance(reply, Answer | Refusal):
                await self.send(
                    row["device"],
                    reply,
                    content_type=row["content_type"],
                    correlation=row["correlation"],
                    expiry_s=(row["keep_until_ms"] - stamp) / 1000,
                    committed=True,
                )
