"""Messages that could not be taken, and the forgetting of what was: for an operator. Decides nothing."""

import base64
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web

from outrider_cloud.forgetting import Forgetting, Forgotten
from outrider_cloud.intake.requeue import Outcome, Requeue
from outrider_cloud.store import dead_letters
from outrider_cloud.store.forget import Whom
from outrider_cloud.store.store import Store
from outrider_cloud.web.route import JSON_TYPE, Route, json_reply, read_body, whole_number
from outrider_cloud.web.shapes import DeadLetterReply, DeadLettersReply
from outrider_wire.errors import CallerInputError, CallerUnknownError, UnreachableError
from outrider_wire.names import Name

T = TypeVar("T")
_MOST_LETTERS = 1000


class _RequeueRequest(msgspec.Struct, forbid_unknown_fields=True):
    dry_run: bool = False


class _ForgetRequest(msgspec.Struct, forbid_unknown_fields=True):
    device: Name | None = None
    input: Annotated[str, msgspec.Meta(max_length=64)] = ""
    dry_run: bool = False


class Parked:
    """The handlers. What they need is there once the models are loaded."""

    def __init__(
        self, *, store: Store, requeue: Callable[[], Requeue | None], forgetting: Callable[[], Forgetting | None]
    ) -> None:
        self._store = store
        self._requeue = requeue
        self._forgetting = forgetting

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="GET",
                path="/v1/dead-letters",
                handler=self._list,
                what="The newest messages that could not be taken",
                gives=DeadLettersReply,
                query={"limit": {"type": "integer", "minimum": 1, "maximum": _MOST_LETTERS, "default": 100}},
            ),
            Route(
                method="GET",
                path="/v1/dead-letters/{letter}",
                handler=self._show,
                what="One of them, with its bytes",
                gives=DeadLetterReply,
                fails=(400, 404),
            ),
            Route(
                method="POST",
                path="/v1/dead-letters/{letter}/requeue",
                handler=self._take_again,
                what="Take one in again, as if it came on its topic now",
                body=JSON_TYPE,
                takes=_RequeueRequest,
                gives=Outcome,
                fails=(404, 409, 503),
            ),
            Route(
                method="POST",
                path="/v1/forget",
                handler=self._forget,
                what="Forget a device, or an input, everywhere",
                body=JSON_TYPE,
                takes=_ForgetRequest,
                gives=Forgotten,
                fails=(503,),
            ),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        limit = whole_number(request, "limit", 100, _MOST_LETTERS)
        return json_reply({"dead_letters": await self._store.read(partial(dead_letters.latest, limit=limit))})

    async def _show(self, request: web.Request) -> web.Response:
        number = _number(request)
        letter = await self._store.read(partial(dead_letters.find, letter_id=number))
        if letter is None:
            raise CallerUnknownError(
                f"there is no dead letter {number}", reason="unknown_letter", fix="see /v1/dead-letters"
            )
        said: dict[str, Any] = msgspec.structs.asdict(letter) | {"id": number, "whole": letter.whole}
        for name in ("payload", "correlation"):
            said[name] = base64.b64encode(said[name] or b"").decode()
        return json_reply(said)

    async def _take_again(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, _RequeueRequest)
        outcome = await _there(self._requeue()).requeue(_number(request), dry_run=wanted.dry_run)
        return json_reply(outcome)

    async def _forget(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, _ForgetRequest)
        if not wanted.device and not wanted.input:
            raise CallerInputError(
                "it does not say what to forget", reason="invalid_body", fix="give a device, an input, or both"
            )
        whom, forgetting = Whom(wanted.device or "", wanted.input), _there(self._forgetting())
        return json_reply(await (forgetting.look(whom) if wanted.dry_run else forgetting.forget(whom)))


def _there(part: T | None) -> T:
    """What is there once the cloud runs.

    Raises:
        UnreachableError: it still loads its models.
    """
    if part is None:
        raise UnreachableError("the cloud still starts", reason="starting", fix="wait until it is ready")
    return part


def _number(request: web.Request) -> int:
    text = request.match_info["letter"]
    if not text.isdecimal() or len(text) > 15:
        raise CallerInputError(f"{text[:40]!r} is no number", reason="invalid_letter", fix="give a letter's number")
    return int(text)
