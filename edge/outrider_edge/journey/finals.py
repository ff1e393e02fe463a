"""Who waits for which final answer. Knows no clock but the event loop's, and stores nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from outrider_wire.report import AnswerReport

Waiter = asyncio.Future[AnswerReport | None]


class Finals:
    """Futures by input id. Everything runs on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Waiter]] = {}
        self._released = False

    @contextmanager
    def waiter(self, input_id: str) -> Iterator[Waiter]:
        """A future of the final report of that input, or of None when the agent stops first. Begin before you look it up."""
        future: Waiter = asyncio.get_running_loop().create_future()
        if self._released:
            future.set_result(None)
        waiting = self._waiting.setdefault(input_id, set())
        waiting.add(future)
        try:
            yield future
        finally:
            future.cancel()
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(input_id, None)

    def tell(self, report: AnswerReport) -> bool:
        """Hands a final report to all who wait for it. False: nobody does."""
        waiting = self._waiting.get(report.id, ())
        for future in waiting:
            if not future.done():
                future.set_result(report)
        return bool(waiting)

    def release(self) -> None:
        """Nobody waits any longer, now or later: the agent stops."""
        self._released = True
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)


async def within(future: Waiter, timeout_s: float) -> AnswerReport | None:
    """What the future holds in at most that long; None: nothing yet."""
    await asyncio.wait([future], timeout=max(0.0, timeout_s))
    return future.result() if future.done() else None
