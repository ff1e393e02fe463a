"""A large model behind any OpenAI-compatible server. Knows HTTP and its failures; what is said is `completions`' to word and read.

What is the server's fault is put off, never refused: the input waits in the store until its time is over.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence

import aiohttp

from outrider_cloud.config import AskingSettings
from outrider_cloud.large.base import Cost, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.completions import (
    BODY_BYTES,
    Choice,
    completion_body,
    digest_of,
    read_completion,
    read_models,
)
from outrider_cloud.large.patience import LONGEST_S, PAUSE_S, Breaker, backoff_s, retry_after_s
from outrider_cloud.large.prompts import check_modalities, choice_prompt, codes_of
from outrider_wire.errors import (
    CallerInputError,
    OperatorConfigError,
    OutriderError,
    PeerError,
    PeerMessageError,
    UnreachableError,
)
from outrider_wire.task import Task

log = logging.getLogger(__name__)

_LOOK_S = 300.0
"""How long the list of models is believed."""
_DENIED_S = 60.0
_DENIED = (401, 402, 403, 404)
"""The operator's to mend: the key, the bill, or the model's name."""
_REFUSED = (400, 413, 422)
"""What the server says of the request itself; every other status is the server's own trouble."""


class _PutOffError(Exception):
    """The server did not answer this exchange; ``retry_after_s`` is when to ask again."""

    def __init__(self, reason: str, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.refusal = LargeRefusal(reason=reason, detail=detail, retry_after_s=retry_after_s)


class CompatibleServer:
    """A client that holds one connection pool, on the event loop that first asks it."""

    def __init__(self, *, url: str, model: str, key: str, task: Task, asking: AskingSettings) -> None:
        check_modalities(task, ("text", "image"), "openai")
        self._url = url.rstrip("/")
        self._model = model
        self._task = task
        self._asking = asking
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(asking.at_once)
        self._breaker = Breaker()
        self._chance = random.SystemRandom()
        self._listed = ""
        """Digest of what the server lists of the model; '' until it has been asked."""
        self._served = ""
        """The model and configuration that the last reply named."""
        self._looked: float | None = None

    @property
    def name(self) -> str:
        """The model, and a digest of what the server says of it: another one is another model, whatever its name."""
        known = digest_of(self._listed, self._served) if self._listed or self._served else "unknown"
        return f"{self._model[-200:]}@{known}"

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        """Asks about all at once, within `AskingSettings.at_once`; never raises for what the server does."""
        if self._breaker.closed:
            await self._look_again()
        return await asyncio.gather(*(self._reply(request) for request in batch))

    async def look(self) -> None:
        """Reads what the server says of the model.

        Raises:
            UnreachableError: it does not answer.
            OperatorConfigError: it has no such model, or takes no such key.
        """
        try:
            status, body, _ = await self._exchange("GET", "/models", None)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(
                f"the large model's server {self._url} does not answer: {_said(error)}",
                reason="large_model_unreachable",
                fix="start it, or correct the address in large",
            ) from error
        if status in (401, 403):
            raise OperatorConfigError(
                f"the large model's server {self._url} refuses the key ({status})",
                reason="key_refused",
                fix="set asking.api_key_env to the environment variable that holds its API key",
            )
        self._looked = time.monotonic()
        if status == 404:
            return  # a server without a list: the replies still name the model
        if status != 200:
            raise UnreachableError(
                f"the large model's server {self._url} answers {status} to /models", reason="large_model_unreachable"
            )
        self._listed = read_models(body, self._model)

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _look_again(self) -> None:
        """Now and then, and after trouble: a server that was started again may serve something else."""
        if self._looked is not None and time.monotonic() - self._looked < _LOOK_S:
            return
        try:
            await self.look()
        except OutriderError as error:
            log.warning("large_model.unlisted", extra={"what": str(error), "reason": error.reason})

    async def _reply(self, request: LargeRequest) -> LargeReply | LargeRefusal:
        started = time.perf_counter()
        try:
            codes = codes_of(request)
            body = completion_body(self._model, choice_prompt(self._task, request, codes))
            async with self._slots:
                if (left_s := self._breaker.left_s(time.monotonic())) > 0:
                    raise _PutOffError("large_model_down", "the server fails and is left alone", left_s)
                choice = self._read(await self._completed(body), frozenset(codes.values()))
        except _PutOffError as error:
            return error.refusal
        except (CallerInputError, PeerError) as error:
            return LargeRefusal(reason=error.reason, detail=str(error)[:512])
        self._served = choice.served
        return self._said(request, codes, choice, ms=(time.perf_counter() - started) * 1000)

    def _said(
        self, request: LargeRequest, codes: dict[int, str], choice: Choice, *, ms: float
    ) -> LargeReply | LargeRefusal:
        masses = [choice.masses.get(codes[k], 0.0) if k in codes else 0.0 for k in range(len(request.labels))]
        asking, captured = self._asking, sum(masses)
        money = (choice.prompt_tokens * asking.price_in + choice.completion_tokens * asking.price_out) / 1e6
        tokens = choice.prompt_tokens + choice.completion_tokens
        cost = Cost(tokens=tokens, money=money, ms=ms, scores=len(codes))
        if captured <= 0:
            detail = "none of the labels' codes is among the server's likeliest tokens"
            return LargeRefusal(reason="mass_too_low", detail=detail, cost=cost)
        return LargeReply(probabilities=[mass / captured for mass in masses], captured=min(1.0, captured), cost=cost)

    def _read(self, said: bytes, codes: frozenset[str]) -> Choice:
        """What a reply says; one that says nothing is the server's fault, not the input's.

        Raises:
            _PutOffError: it is no completion, or comes without alternatives.
        """
        try:
            choice = read_completion(said, codes)
        except PeerMessageError as error:
            self._breaker.failed(time.monotonic())
            log.warning("large_model.unreadable", extra={"what": str(error)[:512], "reason": error.reason})
            raise _PutOffError(error.reason, str(error)[:512], PAUSE_S) from error
        self._breaker.succeeded()
        return choice

    async def _completed(self, body: object) -> bytes:
        """The body of a completion, after as many attempts as it takes and is allowed.

        Raises:
            _PutOffError: the server did not answer.
            PeerMessageError: it refuses this very request.
        """
        for attempt in range(1, self._asking.retries + 2):
            asked_s: float | None = None
            try:
                status, said, header = await self._exchange("POST", "/chat/completions", body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                trouble, self._looked = _said(error), None
            else:
                if status == 200:
                    return said
                if status in _DENIED:
                    self._breaker.failed(time.monotonic())
                asked_s = retry_after_s(header)
                trouble = _status(status, said)
            wait_s = backoff_s(attempt, self._chance.random(), asked_s)
            if attempt > self._asking.retries or wait_s > LONGEST_S:
                break
            await asyncio.sleep(wait_s)
        self._breaker.failed(time.monotonic())
        log.warning("large_model.unanswered", extra={"what": trouble, "attempts": attempt})
        raise _PutOffError("large_model_unreachable", trouble, max(wait_s, asked_s or 0.0))

    async def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes, str | None]:
        """Status, bounded body and Retry-After of one request."""
        if self._client is None:
            timeout = aiohttp.ClientTimeout(total=self._asking.timeout_s)
            self._client = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        async with self._client.request(method, self._url + path, json=body, allow_redirects=False) as response:
            said = bytearray()
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > BODY_BYTES:
                    raise aiohttp.ClientPayloadError(f"the reply has more than {BODY_BYTES} bytes")
            return response.status, bytes(said), response.headers.get("Retry-After")


def _status(status: int, body: bytes) -> str:
    """What a status other than 200 means for trying again.

    Raises:
        _PutOffError: the operator must mend something first.
        PeerMessageError: the server refuses this very request; asking again changes nothing.
    """
    said = " ".join(body[:200].decode("utf-8", "replace").split())
    what = f"the server answers {status}: {said}"
    if status in _DENIED:
        raise _PutOffError("large_model_denied", what, _DENIED_S)
    if status in _REFUSED:
        raise PeerMessageError(what, reason="server_refused", fix="see what the server logs")
    return what


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")[:200]
