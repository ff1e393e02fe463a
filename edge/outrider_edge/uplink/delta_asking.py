"""Asks the cloud whether it has a delta, and waits a while for one that is being made. Knows no files."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence

from outrider_link.envelope import Outgoing
from outrider_wire.codec import encode
from outrider_wire.messages import BlobGone, DeltaFound, DeltaWant

log = logging.getLogger(__name__)

PENDING = "delta_pending"


class DeltaAsking:
    """Give it every `DeltaFound` and `BlobGone` that arrives.

    Args:
        publish: sends the question.
        topic: where the cloud listens, given the transfer's name.
        timeout_s: a reply that has not come by then is not waited for; an older cloud never sends one.
        tries: how often it is asked without any reply.
        again_s: between questions while it is being made.
        patience_s: how long it may take to be made.
    """

    def __init__(
        self,
        *,
        publish: Callable[[Outgoing], Awaitable[bool]],
        topic: Callable[[str], str],
        timeout_s: float = 5.0,
        tries: int = 2,
        again_s: float = 2.0,
        patience_s: float = 180.0,
    ) -> None:
        self._publish = publish
        self._topic = topic
        self._timeout_s = timeout_s
        self._tries = tries
        self._again_s = again_s
        self._patience_s = patience_s
        self._replies: dict[str, asyncio.Future[DeltaFound | BlobGone]] = {}

    def take(self, message: DeltaFound | BlobGone) -> bool:
        """Whether it is the reply to a question of ours."""
        reply = self._replies.get(message.transfer)
        if reply is None:
            return False
        if not reply.done():
            reply.set_result(message)
        return True

    async def ask(self, *, sha256: str, bases: Sequence[str]) -> DeltaFound | None:
        """The delta that the cloud names; None: it has none, or does not say.

        Raises:
            UnreachableError: there is no connection.
        """
        until = asyncio.get_running_loop().time() + self._patience_s
        unanswered = 0
        while unanswered < self._tries and asyncio.get_running_loop().time() < until:
            reply = await self._asked(sha256, bases)
            if reply is None:
                unanswered += 1
                continue
            unanswered = 0
            if reply.sha256 != sha256:
                return None
            if isinstance(reply, DeltaFound):
                return reply if reply.base in bases else None
            if reply.reason != PENDING:
                log.info("delta.none", extra={"sha256": sha256, "reason": reply.reason})
                return None
            await asyncio.sleep(self._again_s)
        return None

    async def _asked(self, sha256: str, bases: Sequence[str]) -> DeltaFound | BlobGone | None:
        transfer = secrets.token_hex(8)
        reply: asyncio.Future[DeltaFound | BlobGone] = asyncio.get_running_loop().create_future()
        self._replies[transfer] = reply
        try:
            want = DeltaWant(transfer=transfer, sha256=sha256, bases=list(bases))
            async with asyncio.timeout(self._timeout_s):
                await self._publish(Outgoing(self._topic(transfer), encode(want)))
                return await reply
        except TimeoutError:
            return None
        finally:
            del self._replies[transfer]
