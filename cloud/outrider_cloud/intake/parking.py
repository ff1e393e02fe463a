"""Where messages end that cannot be taken: counted, told to the device where one can be named, and kept to be looked at.

A flood of them fills neither the memory nor the disk nor the log: what exceeds a rate is only counted, and the table is bounded.
"""

import asyncio
import logging
from functools import partial

import msgspec

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.background import Background
from outrider_cloud.buckets import Buckets
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.admission import Limits
from outrider_cloud.metrics import Metrics
from outrider_cloud.seldom import Seldom
from outrider_cloud.store import dead_letters
from outrider_cloud.store.store import Store
from outrider_link.envelope import Incoming
from outrider_wire.codec import JSON, MSGPACK
from outrider_wire.decodable import decodable
from outrider_wire.errors import OutriderError
from outrider_wire.messages import Refusal
from outrider_wire.names import Identifier
from outrider_wire.topics import Address

log = logging.getLogger(__name__)
log.addFilter(Seldom())

CORRELATION_BYTES = 256
"""Of the correlation data that is kept with an input and comes back with its answer."""
REPLIES_AT_ONCE = 4096
"""Replies under way that nobody waits for; one more is left out, and the device asks again."""


class Parking:
    """Takes what nobody else takes."""

    def __init__(
        self, *, store: Store, deliveries: Deliveries, background: Background, limits: Limits, metrics: Metrics
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._background = background
        self._metrics = metrics
        self._kept = Buckets(per_s=limits.dead_letters_per_s, burst=limits.dead_letters_burst)

    @property
    def mark(self) -> int:
        """The newest mark of something forgotten that this process has heard of."""
        return self._store.forgotten

    async def park(self, address: Address | None, message: Incoming, error: OutriderError, *, mark: int) -> None:
        """Puts a message that cannot be taken aside, and tells the device when its topic and an id can be read.

        Args:
            address: where it came from.
            message: all of it.
            error: what is wrong with it.
            mark: `mark` as it was when the message came.
        """
        input_id = read_id(message)
        device = address.device if address else ""
        if address and address.kind == "escalate" and input_id:
            self._tell(device, message, Refusal(id=input_id, reason=error.reason, detail=str(error)[:2048]))
        self._metrics.dead_letters.labels(error.reason).inc()
        log.warning("message.dead", extra={"topic": message.topic[:256], "reason": error.reason, "input": input_id})
        if self._kept.take("", asyncio.get_running_loop().time()) > 0:
            self._metrics.dead_letters_dropped.labels("rate").inc()
            return
        letter = dead_letters.DeadLetter(
            received_ms=now_ms(),
            topic=message.topic[:256],
            device=device,
            input=input_id,
            reason=error.reason,
            detail=str(error)[:512],
            size=len(message.payload),
            payload=message.payload[: dead_letters.PAYLOAD_BYTES],
            content_type=message.content_type[:64],
            correlation=echoed(message),
            mark=mark,
        )
        gone = await self._store.write(partial(dead_letters.park, letter=letter))
        self._metrics.dead_letters_dropped.labels("table_full").inc(gone)

    def _tell(self, device: str, message: Incoming, refusal: Refusal) -> None:
        if self._background.running("reply") >= REPLIES_AT_ONCE:
            self._metrics.shed.labels("", "reply").inc()
            return
        coding = JSON if message.content_type == JSON else MSGPACK
        work = self._deliveries.send(device, refusal, content_type=coding, correlation=echoed(message))
        self._background.spawn(work, "reply")


def echoed(message: Incoming) -> bytes | None:
    """As much of the correlation data as comes back with a refusal."""
    return (message.correlation or b"")[:CORRELATION_BYTES] or None


class _Id(msgspec.Struct):
    id: Identifier


def read_id(message: Incoming) -> str:
    """The input's id in a message that may be broken otherwise; '' when none can be read."""
    try:
        if message.content_type == JSON:
            return msgspec.json.decode(message.payload, type=decodable(_Id)).id
        return msgspec.msgpack.decode(message.payload, type=decodable(_Id)).id
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return ""
