"""Escalations over HTTP, through the same intake as over the broker: one claim, one bill, one reply that stands.

A device that offers one input both ways is answered both ways, once. What is refused says so as a status.
"""

import asyncio
import math
from collections import Counter
from contextlib import ExitStack
from typing import Protocol

from aiohttp import web

from outrider_cloud.answering.deliveries import Deliveries, Heard
from outrider_cloud.intake.parking import read_id
from outrider_cloud.web.route import JSON_TYPE, Route, converted, error_reply
from outrider_link.envelope import Incoming
from outrider_wire.codec import JSON, MSGPACK, encode
from outrider_wire.errors import CallerInputError, CallerUnknownError, OutriderError, PeerError, UnreachableError
from outrider_wire.messages import Answer, Escalation, Receipt, Refusal
from outrider_wire.names import Identifier, Name
from outrider_wire.topics import Address

WAIT_MS = 10_000
MOST_WAIT_MS = 60_000
AT_ONCE = 1024
"""Requests that wait for their answer."""
AT_ONCE_A_DEVICE = 32
TAKEN_AT_ONCE = 64
"""Requests whose bodies are in memory beside what the intake has admitted; of the others nothing is read yet."""
_LOOK_S = 1.0
_RETRY_S = 1.0
_FAILS = (404, 410, 422, 503)
_WAIT = {"wait_ms": {"type": "integer", "minimum": 0, "maximum": MOST_WAIT_MS}}
_REASON_STATUS = {
    "busy": 503,
    "part_not_here": 409,
    "expired": 410,
    "too_large": 413,
    "part_too_large": 413,
    "unknown_content_type": 415,
    "unknown_task": 404,
}


class Offers(Protocol):
    """The intake, as these handlers see it. Real: `outrider_cloud.intake.intake.Intake`."""

    async def on_escalation(self, address: Address, message: Incoming, *, pull: bool = True) -> PeerError | None:
        """One offer."""
        ...

    async def standing(self, device: str, input_id: str) -> Answer | Refusal | Receipt | None:
        """The reply that stands."""
        ...


class Escalating:
    """The handlers. `open` names the intake once the models are loaded; until then everything is busy."""

    def __init__(self, *, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._intake: Offers | None = None
        self._waiting: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(TAKEN_AT_ONCE)

    def open(self, intake: Offers) -> None:
        """From here on escalations are taken."""
        self._intake = intake

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="POST",
                path="/v1/devices/{device}/escalations/{task}",
                handler=self._post,
                what="Ask the large model; the answer, or (after ?wait_ms=10000) the receipt. Parts are inline, or were put",
                body=JSON_TYPE,
                takes=Escalation,
                gives=Answer,
                who="device",
                also={202: Receipt},
                messages=True,
                fails=(*_FAILS, 409, 415),
                query=_WAIT,
            ),
            Route(
                method="GET",
                path="/v1/devices/{device}/escalations/{id}",
                handler=self._get,
                what="The reply that stands, waited for (?wait_ms=0)",
                gives=Answer,
                who="device",
                also={202: Receipt},
                messages=True,
                fails=_FAILS,
                query=_WAIT,
            ),
        ]

    async def _post(self, request: web.Request) -> web.Response:
        device = _device(request)
        wait_s = _wait_s(request, WAIT_MS)
        if self._intake is None or sum(self._waiting.values()) >= AT_ONCE or self._waiting[device] >= AT_ONCE_A_DEVICE:
            return _refused(Refusal(id="0" * 16, reason="busy", retry_after_s=_RETRY_S))
        self._waiting[device] += 1
        try:
            return await self._offer(self._intake, request, device, wait_s)
        finally:
            self._waiting[device] -= 1
            if not self._waiting[device]:
                del self._waiting[device]

    async def _offer(self, intake: Offers, request: web.Request, device: str, wait_s: float) -> web.Response:
        task = converted(request.match_info["task"], Name, "task", fix="1 to 64 of a-z 0-9 -")
        with ExitStack() as listening:
            async with self._slots:
                message = Incoming(
                    topic=f"{request.method} {request.path}",
                    payload=await request.read(),
                    content_type=request.content_type,
                )
                input_id = read_id(message)
                heard = listening.enter_context(self._deliveries.heard(device, input_id))
                error = await intake.on_escalation(Address("escalate", device, task=task), message, pull=False)
            del message  # what was admitted is the intake's to bound
            if error is not None:
                return error_reply(error, _REASON_STATUS.get(error.reason, 400))
            reply = await _reply_within(intake, device, input_id, heard, wait_s)
        if reply is None:
            return _refused(Refusal(id=input_id, reason="busy", detail="not stored yet", retry_after_s=_RETRY_S))
        return _said(reply, request.content_type)

    async def _get(self, request: web.Request) -> web.Response:
        device = _device(request)
        input_id = converted(request.match_info["id"], Identifier, "id", fix="16 to 64 of 0-9 a-f -")
        if self._intake is None:
            return _refused(Refusal(id=input_id, reason="busy", retry_after_s=_RETRY_S))
        reply = await self._intake.standing(device, input_id)
        if isinstance(reply, Receipt) and (wait_s := _wait_s(request, 0)):
            with self._deliveries.heard(device, input_id) as heard:
                reply = await _reply_within(self._intake, device, input_id, heard, wait_s)
        if reply is None:
            raise CallerUnknownError(
                f"no input {input_id} of {device!r} is known", reason="unknown_input", fix="POST the escalation"
            )
        return _said(reply, MSGPACK if MSGPACK in request.headers.get("Accept", "") else JSON)


async def _reply_within(
    intake: Offers, device: str, input_id: str, heard: Heard, wait_s: float
) -> Answer | Refusal | Receipt | None:
    """The end of an input; after ``wait_s`` what stands of it by then. Another worker may be answering: the store is asked too."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        try:
            async with asyncio.timeout(max(0.0, min(_LOOK_S, until - loop.time()))):
                while True:
                    reply = await heard.get()
                    if not isinstance(reply, Receipt):
                        return reply
        except TimeoutError:
            standing = await intake.standing(device, input_id)
        if loop.time() >= until or isinstance(standing, Answer | Refusal):
            return standing


def _said(reply: Answer | Refusal | Receipt, coding: str) -> web.Response:
    if isinstance(reply, Refusal):
        return _refused(reply)
    coding = coding if coding in (JSON, MSGPACK) else MSGPACK
    return web.Response(
        body=encode(reply, coding), status=202 if isinstance(reply, Receipt) else 200, content_type=coding
    )


def _refused(refusal: Refusal) -> web.Response:
    """A refusal in the API's own words: an error as JSON, with the time to wait where it is worth trying again."""
    what = refusal.detail or f"refused: {refusal.reason}"
    error: OutriderError
    if refusal.retry_after_s is None:
        error = CallerInputError(what, reason=refusal.reason, fix="do not send it again")
    else:
        error = UnreachableError(what, reason=refusal.reason, fix="send it again after Retry-After seconds")
    response = error_reply(error, _REASON_STATUS.get(refusal.reason, 422 if refusal.retry_after_s is None else 503))
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(refusal.retry_after_s))
    return response


def _device(request: web.Request) -> str:
    return converted(request.match_info["device"], Name, "device", fix="1 to 64 of a-z 0-9 -")


def _wait_s(request: web.Request, default_ms: int) -> float:
    said = request.query.get("wait_ms", str(default_ms))
    if not said.isascii() or not said.isdecimal() or len(said) > 9:
        raise CallerInputError("wait_ms is not a number", reason="invalid_query", fix=f"send 0 to {MOST_WAIT_MS}")
    return min(int(said), MOST_WAIT_MS) / 1000
