"""From an HTTP request to parts and wishes. Knows the two codings of a body and nothing of what happens next."""

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web
from msgspec import Struct

from outrider_edge.journey.pipeline import Parts
from outrider_edge.local_api.form import form_fields
from outrider_wire.errors import CallerInputError

BODY_S = 60.0
"""From a head to the end of its body: whoever sends one slowly holds a connection, and memory."""
_WAITS = {"final": True, "provisional": False}
_SWITCH = {"1": True, "true": True, "0": False, "false": False}
_WISHES = ("wait", "answer_within_ms", "group", "insist")


class Binary(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The bytes of one part, in JSON."""

    base64: bytes
    media_type: str = ""
    """For people: what the bytes are is judged from the bytes."""


class Submission(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One input, in JSON."""

    parts: dict[str, str | Binary]
    """Text as it is, everything else as base64."""


class Wishes(Struct, kw_only=True, frozen=True):
    """The query of a submission."""

    wait: bool = True
    answer_within_ms: int | None = None
    group: str = ""
    insist: bool = False


NO_WISHES = Wishes()
"""Of a request without a query."""
_JSON = msgspec.json.Decoder(Submission)


async def read_body(request: web.Request) -> bytes:
    """The whole body.

    Raises:
        CallerInputError: it is too large, or is not here after `BODY_S`.
    """
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError as error:
        raise slow_body() from error
    except web.HTTPRequestEntityTooLarge as error:
        raise CallerInputError(
            "the body is larger than any input of this device's tasks", reason="too_large", fix="send less"
        ) from error


def slow_body() -> CallerInputError:
    """What is said of a body that did not come in time."""
    return CallerInputError(
        "the body has not come within the time that it may take", reason="slow_body", fix="send it at once, or again"
    )


def parts_of_body(body: bytes, header: str) -> Parts:
    """The parts of one input, from a whole body; ``header`` is its Content-Type.

    Raises:
        CallerInputError: the body is empty, of another type, or not what its type says.
    """
    if not body:
        raise CallerInputError(
            "the body is empty", reason="empty_body", fix="send the parts as a multipart form, or as JSON"
        )
    # Not `request.content_type`: that parses the header as a mail's, which takes longer than the model.
    media_type = header.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return form_fields(body, header)
    if media_type == "application/json":
        return _from_json(body)
    raise CallerInputError(
        f"a body of type {media_type[:64]!r} is not read",
        reason="unsupported_media_type",
        fix="send multipart/form-data, one field a part, or application/json",
    )


def read_wishes(request: web.Request) -> Wishes:
    """What the query asks for.

    Raises:
        CallerInputError: an unknown key, or a value that it cannot have.
    """
    if not request.query_string:
        return NO_WISHES  # most inputs; parsing an empty query costs as much as reading the parts
    return wishes_of(request.query)


def wishes_of(query: Mapping[str, str]) -> Wishes:
    """What a query asks for; errors as `read_wishes`."""
    if unknown := [key for key in query if key not in _WISHES]:
        raise CallerInputError(
            f"unknown query parameter {unknown[0][:64]!r}",
            reason="unknown_parameter",
            fix=f"known ones: {', '.join(_WISHES)}",
        )
    return Wishes(
        wait=_one_of(query.get("wait", "final"), _WAITS, "wait"),
        answer_within_ms=whole_number(query["answer_within_ms"], "answer_within_ms")
        if "answer_within_ms" in query
        else None,
        group=query.get("group", ""),
        insist=_one_of(query.get("insist", "0"), _SWITCH, "insist"),
    )


def whole_number(text: str, name: str) -> int:
    """A number of a query.

    Raises:
        CallerInputError: it is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise CallerInputError(
            f"{name} is {text[:32]!r}, not a whole number", reason="invalid_parameter", fix="give milliseconds"
        )
    return int(text)


def _one_of(text: str, known: dict[str, bool], name: str) -> bool:
    if text not in known:
        raise CallerInputError(
            f"{name} is {text[:32]!r}", reason="invalid_parameter", fix=f"give one of: {', '.join(known)}"
        )
    return known[text]


def _from_json(body: bytes) -> Parts:
    try:
        parts = _JSON.decode(body).parts
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise CallerInputError(
            f"the body is not a JSON input: {error}",
            reason="damaged_body",
            fix='send {"parts": {NAME: "text", OTHER: {"base64": "…"}}}',
        ) from error
    return {name: value.base64 if isinstance(value, Binary) else value for name, value in parts.items()}
