"""Signed metadata from the cloud: over HTTP where there is HTTP, else asked for on the broker. Believes nothing of it.

The asking is asyncio's; `UplinkMetadata` is what a thread that verifies sees of it.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

from outrider_link.blobs import BlobPuller, Publish
from outrider_link.envelope import Outgoing
from outrider_link.http import CloudHttp
from outrider_trust.sources import NotHereError, checked_path
from outrider_wire.codec import encode
from outrider_wire.errors import PeerError, UnreachableError
from outrider_wire.messages import MetadataFound, MetadataWant
from outrider_wire.topics import RELEASES

log = logging.getLogger(__name__)

ASK_S, TRIES = 5.0, 4
"""How long a reply may take, and how often it is asked for."""
FETCH_S = 300.0
"""After so long a thread that waits gives up: a file that is pulled in blocks may take a while."""

Ask = Callable[[str, int], Awaitable[bytes | None]]


class MetadataLine:
    """Asks for files; give it every `MetadataFound` that arrives.

    Args:
        publish: sends the wants.
        topic: where the cloud listens, given the transfer's name.
        puller: for what is too large to come in one message.
        http: a faster way, tried first; it is left alone after a failure.
    """

    def __init__(
        self, *, publish: Publish, topic: Callable[[str], str], puller: BlobPuller, http: CloudHttp | None = None
    ) -> None:
        self._publish = publish
        self._topic = topic
        self._puller = puller
        self._http = http
        self._asked: dict[str, asyncio.Future[MetadataFound]] = {}
        self.unasked = 0
        """Replies that nobody waits for."""

    async def ask(self, path: str, most: int) -> bytes | None:
        """The file of that path; None: there is none.

        Raises:
            UnreachableError: nobody answers now.
            PeerError: what comes is longer than ``most``, or cannot be pulled.
        """
        checked_path(path)
        if self._http is not None:
            with suppress(UnreachableError, PeerError):
                return await self._http.metadata(path, most)
        found = await self._reply(path)
        if not found.sha256:
            return None
        if found.size > most:
            raise PeerError(f"{path} has {found.size} bytes, and {most} are taken", reason="too_large")
        if found.data or not found.size:
            return found.data
        return await self._puller.pull(sha256=found.sha256, size=found.size, want_topic=self._topic, worker=RELEASES)

    def take(self, message: MetadataFound) -> None:
        """A reply of the cloud."""
        waiting = self._asked.get(message.transfer)
        if waiting is None or waiting.done():
            self.unasked += 1
        else:
            waiting.set_result(message)

    async def _reply(self, path: str) -> MetadataFound:
        for _ in range(TRIES):
            transfer = secrets.token_hex(8)
            self._asked[transfer] = waiting = asyncio.get_running_loop().create_future()
            try:
                await self._publish(Outgoing(self._topic(transfer), encode(MetadataWant(transfer=transfer, path=path))))
                async with asyncio.timeout(ASK_S):
                    found: MetadataFound = await waiting
                if found.path == path:
                    return found
            except TimeoutError:
                log.info("metadata.no_reply", extra={"path": path})
            finally:
                del self._asked[transfer]
        raise UnreachableError(
            f"the cloud did not answer for {path}", reason="metadata_timed_out", fix="try again later"
        )


class UplinkMetadata:
    """An `outrider_trust.sources.MetadataSource` for a thread beside the event loop.

    Args:
        ask: `MetadataLine.ask`.
        loop: where it runs.
    """

    def __init__(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> None:
        self._ask = ask
        self._loop = loop

    def fetch(self, path: str, most: int) -> bytes:
        """As `MetadataSource.fetch`. Blocks: never call it on the event loop."""
        asking = asyncio.run_coroutine_threadsafe(self._asking(path, most), self._loop)
        try:
            found = asking.result(FETCH_S)
        except TimeoutError as error:
            asking.cancel()
            raise UnreachableError(f"{path} did not come in time", reason="metadata_timed_out") from error
        except PeerError as error:
            raise UnreachableError(str(error), reason=error.reason, fix="try another source") from error
        if found is None:
            raise NotHereError(path)
        return found

    async def _asking(self, path: str, most: int) -> bytes | None:
        return await self._ask(path, most)
