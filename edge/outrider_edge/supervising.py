"""Work that goes on whatever happens to it: restarted with growing pauses, its failures logged. Knows not what it does."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from outrider_link.session import backoff_s
from outrider_wire.errors import OutriderError

log = logging.getLogger(__name__)

STABLE_S = 30.0
"""What ran this long ran well: it is restarted soon."""
_RANDOM = secrets.SystemRandom()


class Supervised:
    """One piece of work. One that fails or ends never stops another.

    Args:
        name: for the log.
        work: runs until it fails or is cancelled; called again after either.
        patience: from the number of failures in a row, from 0, to the seconds before it is called again.
    """

    def __init__(
        self,
        *,
        name: str,
        work: Callable[[], Awaitable[None]],
        patience: Callable[[int], float] = lambda attempt: 0.1 + backoff_s(attempt, _RANDOM.random()),
    ) -> None:
        self.name = name
        self._fault = ""
        self._work = work
        self._patience = patience

    async def run(self) -> None:
        """Until it is cancelled."""
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                await self._work()
                self._failed("it has ended", logging.INFO)
            except OutriderError as error:
                self._failed(str(error), logging.WARNING)
            except Exception as error:  # supervised: logged, and tried again
                with suppress(Exception):  # there may be no memory for a line either
                    log.exception("work.failed", extra={"work": self.name})
                self._failed(f"{type(error).__name__}: {error}", logging.DEBUG)
            attempt = 0 if time.monotonic() - began > STABLE_S else attempt + 1
            await asyncio.sleep(self._patience(attempt))

    def _failed(self, what: str, level: int) -> None:
        log.log(logging.DEBUG if what == self._fault else level, "work.down", extra={"work": self.name, "what": what})
        self._fault = what
