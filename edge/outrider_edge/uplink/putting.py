"""What an offer only refers to is put where the cloud finds it, over HTTP, before the offer leaves. Knows no topics and no broker."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from outrider_link.http import CloudHttp
from outrider_wire.errors import OutriderError
from outrider_wire.messages import Escalation

log = logging.getLogger(__name__)

PUTS_AT_ONCE = 4
"""Offers that wait for their parts to be put over HTTP. Any further one leaves at once, and its parts are pulled."""
PUT_S, PUT_BYTES_PER_S = 2.0, 250_000
"""How long a put may take, and that much longer for its size: HTTP that is slower than this is no faster way."""


class PartPutting:
    """Puts the parts of offers.

    Args:
        http: the cloud's HTTP API.
        open_blob: the bytes of a digest, or the file that holds them; None when it is not here.
    """

    def __init__(self, *, http: CloudHttp, open_blob: Callable[[str], bytes | Path | None]) -> None:
        self._http = http
        self._open_blob = open_blob
        self._under_way: set[str] = set()

    async def put(self, escalation: Escalation) -> None:
        """For a moment only, and once an input: other offers wait behind, and what does not come so is pulled over the broker."""
        offered = [part for part in escalation.parts if part.inline is None]
        full = len(self._under_way) >= PUTS_AT_ONCE
        if not offered or full or escalation.offer > 1 or escalation.id in self._under_way:
            return
        self._under_way.add(escalation.id)
        try:
            async with asyncio.timeout(PUT_S + sum(part.size for part in offered) / PUT_BYTES_PER_S):
                for part in offered:
                    if (blob := self._open_blob(part.sha256)) is not None:
                        await self._http.put(part.sha256, blob)
        except (OutriderError, OSError, TimeoutError) as error:
            log.info("uplink.not_put", extra={"id": escalation.id, "what": str(error) or "not in time"})
        finally:
            self._under_way.discard(escalation.id)
