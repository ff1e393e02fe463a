"""The application's way to the agent on this machine: a blocking client and an asyncio one. Knows no broker and no cloud."""

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from msgspec import Struct

from outrider.exchange import (
    ADDRESS_VARIABLE,
    AGENT,
    DEFAULT_ADDRESS,
    START,
    Ended,
    EventReader,
    PartValue,
    decoded,
    ended_stream,
    error_of,
    event_stream,
    look_up,
    submission,
)
from outrider.transport import Transport, not_http, parse_address, timed_out, unreachable
from outrider_wire.report import Account, AnswerReport

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
SILENCE_S = 60.0
"""An event stream says something, a comment at least, four times as often."""


class _Tasks(Struct):
    tasks: list[dict[str, Any]]


def default_address() -> str:
    """``OUTRIDER_AGENT``, or the agent's usual port on this machine."""
    return os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


class Client:
    """Blocking, for any number of threads.

    Args:
        address: ``http://127.0.0.1:8713``, or a Unix socket as ``unix:/run/outrider.sock`` or its bare path; by default
            ``OUTRIDER_AGENT`` from the environment, else port 8713 of this machine.
        timeout_s: how long a reply may take beyond what was asked to be waited for.
    """

    def __init__(self, address: str = "", *, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._http = Transport(address or default_address(), what=AGENT, start=START, timeout_s=timeout_s)

    def ask(
        self,
        task: str,
        parts: Mapping[str, PartValue],
        *,
        wait: bool = True,
        answer_within_ms: int | None = None,
        group: str = "",
        insist: bool = False,
    ) -> AnswerReport:
        """Submits one input and returns its report.

        Args:
            task: the task's name.
            parts: part name → text, bytes, or the path of a file.
            wait: True: the final answer, or after ``answer_within_ms`` what there is. False: the device's own answer at
                once; ``report.final`` says whether another follows, which `get` and `AsyncClient.events` give.
            answer_within_ms: how long to wait for the large model; None: as the task's policy says.
            group: what this input is correlated with: clip, event, image.
            insist: ask the large model even if the device is sure.

        Raises:
            CallerInputError: a part is missing, extra, damaged, of the wrong type or too large; ``error.part`` names it.
            CallerUnknownError: no such task, or no such file.
            RuleRefusalError: the agent refuses by a rule: its outbox is full.
            UnreachableError: no agent answers at the address.
            UndecidedError: it did not answer in time.
        """
        asked = submission(task, parts, wait=wait, answer_within_ms=answer_within_ms, group=group, insist=insist)
        within_s = self._timeout_s + (answer_within_ms or 0) / 1000
        reply = self._http.request("POST", asked.path, body=asked.body, headers=asked.headers, timeout_s=within_s)
        return decoded(reply.status, reply.body, AnswerReport)

    def get(self, input_id: str, *, wait_ms: int = 0) -> AnswerReport:
        """The report of an input as it stands, or as soon as it is final within ``wait_ms``.

        Raises:
            CallerUnknownError: the agent does not know (or no longer knows) that input.
        """
        return self._get(look_up(input_id, wait_ms), AnswerReport, self._timeout_s + wait_ms / 1000)

    def ended(self, *, late: bool = True, task: str = "", after: str = "") -> Iterator[Ended]:
        """The final reports of escalated inputs, as they end: the hook for answers that came after their caller had to go on.

        It never ends by itself, and blocks between two of them. Close the iterator to stop.

        Args:
            late: only answers of the large model after ``answer_within_ms``; False: every end, in time or not, also expired
                and refused ones.
            task: of one task only.
            after: the `Ended.cursor` of the last one that you have; '': from now on.

        Raises:
            UnreachableError: no agent answers, or it stopped; go on later with the last cursor.
        """
        reader = EventReader()
        for line in self._http.stream(ended_stream(late=late, task=task, after=after), silence_s=SILENCE_S):
            if not isinstance(line, bytes):
                raise error_of(line.status, line.body)
            if (report := reader.feed(line)) is not None:
                yield Ended(reader.last_id, report)
        raise unreachable(AGENT, str(self._http.address), START, ConnectionError("the agent has ended the stream"))

    def account(self) -> Account:
        """What became of every input so far."""
        return self._get("/v1/account", Account)

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks that this agent answers, with the model in use."""
        return self._get("/v1/tasks", _Tasks).tasks

    def status(self) -> dict[str, Any]:
        """How the agent is: broker, outbox, slots."""
        return self._get("/v1/status", dict[str, Any])

    def close(self) -> None:
        """Closes idle connections."""
        self._http.close()

    def _get(self, path: str, kind: type[T], timeout_s: float | None = None) -> T:
        reply = self._http.request("GET", path, timeout_s=timeout_s)
        return decoded(reply.status, reply.body, kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio; one event loop a client. Arguments as `Client`."""

    def __init__(self, address: str = "", *, timeout_s: float = 60.0) -> None:
        self._address = parse_address(address or default_address())
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        task: str,
        parts: Mapping[str, PartValue],
        *,
        wait: bool = True,
        answer_within_ms: int | None = None,
        group: str = "",
        insist: bool = False,
    ) -> AnswerReport:
        """As `Client.ask`."""
        asked = submission(task, parts, wait=wait, answer_within_ms=answer_within_ms, group=group, insist=insist)
        within_s = self._timeout_s + (answer_within_ms or 0) / 1000
        return await self._fetch(
            "POST", asked.path, AnswerReport, within_s=within_s, data=asked.body, headers=asked.headers
        )

    async def get(self, input_id: str, *, wait_ms: int = 0) -> AnswerReport:
        """As `Client.get`."""
        return await self._fetch(
            "GET", look_up(input_id, wait_ms), AnswerReport, within_s=self._timeout_s + wait_ms / 1000
        )

    async def events(self, input_id: str) -> AsyncIterator[AnswerReport]:
        """The reports of an input as they come: provisional, then final, which is the last.

        Raises:
            CallerUnknownError: the agent does not know that input.
            UnreachableError: the stream broke before the final report; `get` tells what became of it.
        """
        import aiohttp

        last = False
        try:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s)
            async with self._opened().get(self._url(event_stream(input_id)), timeout=timeout) as reply:
                if reply.status >= 300:
                    raise error_of(reply.status, await reply.read())
                reader = EventReader()
                async for line in reply.content:
                    if (report := reader.feed(line)) is not None:
                        last = report.final
                        yield report
                        if last:
                            return
        except aiohttp.ClientError as error:
            raise unreachable(AGENT, str(self._address), START, error) from error
        if not last:
            raise unreachable(AGENT, str(self._address), START, ConnectionError("the stream ended early"))

    async def ended(self, *, late: bool = True, task: str = "", after: str = "") -> AsyncIterator[Ended]:
        """As `Client.ended`."""
        import aiohttp

        reader = EventReader()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=SILENCE_S)
        url = self._url(ended_stream(late=late, task=task, after=after))
        try:
            async with self._opened().get(url, timeout=timeout) as reply:
                if reply.status >= 300:
                    raise error_of(reply.status, await reply.read())
                async for line in reply.content:
                    if (report := reader.feed(line)) is not None:
                        yield Ended(reader.last_id, report)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(AGENT, str(self._address), START, error) from error
        raise unreachable(AGENT, str(self._address), START, ConnectionError("the agent has ended the stream"))

    async def account(self) -> Account:
        """As `Client.account`."""
        return await self._fetch("GET", "/v1/account", Account)

    async def tasks(self) -> list[dict[str, Any]]:
        """As `Client.tasks`."""
        return (await self._fetch("GET", "/v1/tasks", _Tasks)).tasks

    async def status(self) -> dict[str, Any]:
        """As `Client.status`."""
        return await self._fetch("GET", "/v1/status", dict[str, Any])

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _fetch(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        within_s: float | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        import aiohttp

        total_s = within_s or self._timeout_s
        timeout = aiohttp.ClientTimeout(total=total_s)
        try:
            async with self._opened().request(
                method, self._url(path), data=data, headers=headers, timeout=timeout
            ) as reply:
                return decoded(reply.status, await reply.read(), kind)
        except TimeoutError as error:
            raise timed_out(AGENT, total_s) from error
        except aiohttp.ClientResponseError as error:
            raise not_http(AGENT, str(self._address)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(AGENT, str(self._address), START, error) from error

    def _opened(self) -> "aiohttp.ClientSession":
        """The session; made at the first use, because it belongs to the running event loop."""
        import aiohttp

        if self._session is None:
            path = self._address.path
            connector = aiohttp.UnixConnector(path=path, limit=0) if path else aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    def _url(self, path: str) -> Any:
        """``path`` is quoted already."""
        import yarl

        return yarl.URL(self._address.base + path, encoded=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()
