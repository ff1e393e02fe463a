"""One sink: posts reports until the receiver has taken them. Knows no outbox file and no gate.

Of escalated inputs it reads the outbox's own stream of ends and remembers how far it has come, so that each is posted at least
once; a receiver tells repeats by ``webhook-id``, the report's id. Answers given here wait in a bounded queue in memory.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
from msgspec import Struct

from outrider_edge.outbox.feed import Cursor, EndedFeed, parse_cursor
from outrider_edge.webhooks.rules import body_of, headers_of, pause_s, verdict, wanted
from outrider_edge.webhooks.settings import SinkSettings
from outrider_link.envelope import Tls
from outrider_wire.errors import CallerInputError, OutriderError
from outrider_wire.report import AnswerReport

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""So long at most between two looks at the stream of ends."""
REACH_S = 5.0
"""Between two looks at an outbox whose file is out of reach."""
_RANDOM = secrets.SystemRandom()


class SinkView(Struct, kw_only=True, frozen=True):
    """How one sink fares, since the start."""

    taken: int
    """Reports that the receiver has."""
    refused: int
    """Reports that it will never take, by its own word."""
    given_up: int
    """Reports that it did not take in time, or that made way for newer ones."""
    waiting: int
    """Answers given here that are still to be posted."""
    failing: str
    """Why the last try failed; '' after one that did not."""


class WebhookSink:
    """Posts reports to one address.

    Args:
        settings: of the sink.
        device: this device's name, said with every report.
        feed: the outbox's stream of ends.
        remembered: what ``remember`` was given before this start; complete once the feed's end can be read.
        remember: keeps a text over restarts.
        patience: from the number of a try that failed and the receiver's ``Retry-After`` to the seconds before the next one.
    """

    def __init__(
        self,
        *,
        settings: SinkSettings,
        device: str,
        feed: EndedFeed,
        remembered: Callable[[], Mapping[str, str]],
        remember: Callable[[str, str], None],
        patience: Callable[[int, str], float] = lambda attempt, after: pause_s(attempt, _RANDOM.random(), after),
    ) -> None:
        self.settings = settings
        self._device = device
        self._feed = feed
        self._remember = remember
        self._patience = patience
        self._name = f"sink/{settings.name}"
        self._remembered = remembered
        self._cursor: Cursor | None = None
        self._key = settings.key
        self._queue: deque[AnswerReport] = deque(maxlen=settings.queue)
        self._woken = asyncio.Event()
        self._counts = {"taken": 0, "refused": 0, "given_up": 0}
        self._failing = ""

    def view(self) -> SinkView:
        """How it fares."""
        return SinkView(**self._counts, waiting=len(self._queue), failing=self._failing)

    def tell(self, report: AnswerReport) -> None:
        """An answer was given here for good. Cheap, and never waits."""
        settings = self.settings
        if settings.answers != "all" or not wanted(report, tasks=settings.tasks, late=settings.late):
            return
        self._counts["given_up"] += len(self._queue) == self._queue.maxlen
        self._queue.append(report)
        self._woken.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        tls = (
            Tls(ca_file=Path(self.settings.ca_file) if self.settings.ca_file else None).context()
            if self.settings.url.startswith("https")
            else False
        )
        timeout = aiohttp.ClientTimeout(total=self.settings.timeout_s)
        connector = aiohttp.TCPConnector(ssl=tls, limit=2)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            group.create_task(self._post_ends(session))
            group.create_task(self._post_answers(session))

    async def _post_ends(self, session: aiohttp.ClientSession) -> None:
        """Of escalated inputs, from where it had come to; the first time from now on."""
        while True:
            try:
                cursor = self._cursor or await self._begin()
                mark = self._feed.mark
                found = await self._feed.after(cursor)
            except OutriderError as error:  # the outbox's file is out of reach; it comes back, or it is mended
                log.debug("sink.waits", extra={"sink": self.settings.name, "what": str(error)})
                await asyncio.sleep(REACH_S)
                continue
            for at, report in found:
                if wanted(report, tasks=self.settings.tasks, late=self.settings.late):
                    await self._deliver(session, report)
                self._came_to(at)
            if not found:
                await self._feed.wait(mark, LOOK_S)

    async def _begin(self) -> Cursor:
        end = await self._feed.end()  # first: until the outbox has been read, nothing is remembered
        try:
            if text := self._remembered().get(self._name):
                self._cursor = parse_cursor(text)._replace(memory=0)  # what was in memory is gone with it
                return self._cursor
        except CallerInputError:
            log.warning("sink.begins_anew", extra={"sink": self.settings.name, "what": "its mark cannot be read"})
        return self._came_to(end)

    def _came_to(self, cursor: Cursor) -> Cursor:
        self._cursor = cursor
        self._remember(self._name, str(cursor))
        return cursor

    async def _post_answers(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._woken.clear()
            while self._queue:
                await self._deliver(session, self._queue.popleft())
            await self._woken.wait()

    async def _deliver(self, session: aiohttp.ClientSession, report: AnswerReport) -> None:
        """Posts one until it is taken, refused or given up."""
        body, began, attempt = body_of(report, self._device), time.monotonic(), 0
        while True:
            status, fault, after = await self._post(session, report.id, body)
            outcome = verdict(status)
            self._say(fault)
            if outcome != "again":
                self._counts[outcome] += 1
                return
            pause = self._patience(attempt, after)
            if time.monotonic() - began + pause > self.settings.retry_for_s:
                self._counts["given_up"] += 1
                log.error("sink.gave_up", extra={"sink": self.settings.name, "id": report.id, "what": fault})
                return
            await asyncio.sleep(pause)
            attempt += 1

    async def _post(self, session: aiohttp.ClientSession, report_id: str, body: bytes) -> tuple[int, str, str]:
        """One try: the status (0: none), what went wrong ('' when nothing did), and the receiver's ``Retry-After``."""
        headers = headers_of(report_id, int(time.time()), body, self._key)
        try:
            async with session.post(
                self.settings.url, data=body, headers=headers, allow_redirects=False
            ) as reply:  # a redirect would take the report where nobody has said that it may go
                fault = "" if verdict(reply.status) == "taken" else f"the receiver replied with status {reply.status}"
                return reply.status, fault, reply.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return 0, f"the receiver cannot be reached: {error or type(error).__name__}", ""

    def _say(self, fault: str) -> None:
        """A change of fortune, once."""
        if fault and not self._failing:
            log.warning("sink.failing", extra={"sink": self.settings.name, "what": fault})
        elif self._failing and not fault:
            log.info("sink.works_again", extra={"sink": self.settings.name})
        self._failing = fault
