"""How a device hears from the cloud: on its own answer topic, derived from the topic that it spoke on.

The Response Topic of a request is never looked at: a device could aim answers at another one.
"""

import logging
from collections.abc import Awaitable, Callable

from outrider_cloud.metrics import Metrics
from outrider_cloud.seldom import Seldom
from outrider_link.envelope import Outgoing
from outrider_wire.codec import MSGPACK, encode
from outrider_wire.errors import PeerError, UnreachableError
from outrider_wire.messages import Answer, Receipt, Refusal
from outrider_wire.topics import Topics

log = logging.getLogger(__name__)
log.addFilter(Seldom())

Publish = Callable[[Outgoing], Awaitable[bool]]


class Replies:
    """Sends receipts, answers and refusals."""

    def __init__(self, *, publish: Publish, topics: Topics, metrics: Metrics) -> None:
        self._publish = publish
        self._topics = topics
        self._metrics = metrics

    async def send(
        self,
        device: str,
        reply: Receipt | Answer | Refusal,
        *,
        content_type: str = MSGPACK,
        correlation: bytes | None = None,
        expiry_s: float | None = None,
    ) -> bool:
        """Publishes a reply; whether the broker has taken it for somebody who listens."""
        outgoing = Outgoing(
            topic=self._topics.of("answer", device),
            payload=encode(reply, content_type),
            content_type=content_type,
            correlation=correlation or reply.id.encode(),
            expiry_s=max(1, round(expiry_s)) if expiry_s is not None else None,
        )
        try:
            return await self._publish(outgoing)
        except (UnreachableError, PeerError) as error:
            self._metrics.replies_unsent.inc()
            log.warning("reply.unsent", extra={"device": device, "input": reply.id, "reason": error.reason})
            return False
