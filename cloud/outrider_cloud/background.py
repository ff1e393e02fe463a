"""Work that nobody awaits, supervised: what fails is logged and counted, and what runs can be waited for."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from outrider_cloud.seldom import Seldom

log = logging.getLogger(__name__)
log.addFilter(Seldom())


class Background:
    """A set of running tasks."""

    def __init__(self, *, on_error: Callable[[str], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: Counter[str] = Counter()
        self._cut_short: set[asyncio.Task[None]] = set()

    def running(self, what: str) -> int:
        """How much work of that name is under way."""
        return self._running[what]

    def spawn(self, work: Coroutine[Any, Any, object], what: str, *, waited_for: bool = True) -> asyncio.Task[None]:
        """Starts ``work``; ``what`` names it in the log and the metrics; ``waited_for``: `drain` lets it end by itself."""
        task = asyncio.get_running_loop().create_task(self._guarded(work, what), name=what)
        self._tasks.add(task)
        self._running[what] += 1
        task.add_done_callback(self._ended)
        if not waited_for:
            self._cut_short.add(task)
            task.add_done_callback(self._cut_short.discard)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running[task.get_name()] -= 1

    async def drain(self, timeout_s: float) -> None:
        """Waits for what runs and for what that starts, then cancels what is left."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        for task in self._cut_short:
            task.cancel()
        while self._tasks and (left_s := until - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, object], what: str) -> None:
        try:
            await work
        except Exception:  # supervised: one failed piece of work must not end the service
            with suppress(Exception):  # there may be no memory for a line either
                log.exception("background.failed", extra={"what": what})
            self._on_error(what)
