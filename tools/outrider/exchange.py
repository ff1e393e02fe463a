"""What the agent's local API is asked and what it says, as bytes. Opens no connection: both clients stand on this.

A submission is multipart/form-data (RFC 7578), one field a part, so that pictures travel as they are.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from outrider_wire.decodable import decodable
from outrider_wire.errors import (
    BundleError,
    CallerInputError,
    CallerUnknownError,
    OutriderError,
    PeerError,
    PeerMessageError,
    RuleRefusalError,
    UndecidedError,
    UnreachableError,
)
from outrider_wire.report import AnswerReport

DEFAULT_ADDRESS = "http://127.0.0.1:8713"
ADDRESS_VARIABLE = "OUTRIDER_AGENT"
AGENT = "the agent"
START = "outrider edge run"

PartValue = bytes | str | Path
"""A part of an input: its bytes, its text, or the file that holds it."""
T = TypeVar("T")

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"RIFF", "audio/wav"),
    (b"fLaC", "audio/flac"),
)


class Submission(NamedTuple):
    """A request that submits one input."""

    path: str
    headers: dict[str, str]
    body: bytes


def submission(
    task: str,
    parts: Mapping[str, PartValue],
    *,
    wait: bool,
    answer_within_ms: int | None,
    group: str,
    insist: bool,
) -> Submission:
    """The request that submits ``parts``.

    Raises:
        CallerUnknownError: a part names a file that cannot be read.
    """
    query: dict[str, str | int] = {"wait": "final" if wait else "provisional"}
    if answer_within_ms is not None:
        query["answer_within_ms"] = answer_within_ms
    if group:
        query["group"] = group
    if insist:
        query["insist"] = 1
    content_type, body = _multipart(parts)
    path = f"/v1/tasks/{quote(task, safe='')}/answers?{urlencode(query)}"
    return Submission(path, {"Content-Type": content_type}, body)


def look_up(input_id: str, wait_ms: int = 0) -> str:
    """The path that gives an input's report."""
    return f"/v1/answers/{quote(input_id, safe='')}" + (f"?wait_ms={wait_ms}" if wait_ms else "")


def event_stream(input_id: str) -> str:
    """The path that streams an input's reports."""
    return f"/v1/answers/{quote(input_id, safe='')}/events"


class Ended(NamedTuple):
    """One escalated input that ended, as the stream of ends tells of it."""

    cursor: str
    """Keep it: with it the stream goes on after this one, over restarts of either side."""
    report: AnswerReport


def ended_stream(*, late: bool, task: str, after: str) -> str:
    """The path that streams the final reports of escalated inputs."""
    query = {"late": "true" if late else "false", "task": task, "after": after}
    return f"/v1/answers/events?{urlencode({name: value for name, value in query.items() if value})}"


def decoded(status: int, body: bytes, kind: type[T], *, what: str = AGENT) -> T:
    """What a reply holds.

    Raises:
        OutriderError: the error that the reply tells of, or a `PeerMessageError` when it is no reply of ours.
    """
    if status >= 300:
        raise error_of(status, body, what=what)
    try:
        return msgspec.json.decode(body, type=decodable(kind))
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerMessageError(
            f"the reply of {what} does not parse: {error}",
            reason="unparsable",
            fix="check the address, and that both sides are of one version",
        ) from error


class _Told(msgspec.Struct, kw_only=True):
    reason: str = ""
    what: str = ""
    fix: str = ""
    part: str = ""


class _ErrorBody(msgspec.Struct, kw_only=True):
    error: _Told


_BY_STATUS: dict[int, type[OutriderError]] = {
    400: CallerInputError,
    405: CallerInputError,
    413: CallerInputError,
    415: CallerInputError,
    401: RuleRefusalError,
    403: RuleRefusalError,
    409: RuleRefusalError,
    422: BundleError,
    503: UnreachableError,
    504: UndecidedError,
}


def error_of(status: int, body: bytes, *, what: str = AGENT) -> OutriderError:
    """The error that a reply of status 300 or more tells of, as the type whose move it is."""
    try:
        told = msgspec.json.decode(body, type=decodable(_ErrorBody)).error
    except (msgspec.MsgspecError, ValueError):
        told = _Told()
    reason, said = told.reason or f"http_{status}", told.what or f"{what} replied with status {status}"
    if status == 404 and told.reason:
        return CallerUnknownError(said, reason=reason, fix=told.fix)
    kind = _BY_STATUS.get(status, PeerError)
    if kind is CallerInputError:
        return CallerInputError(said, reason=reason, fix=told.fix, part=told.part)
    return kind(said, reason=reason, fix=told.fix or (f"see the log of {what}" if kind is PeerError else ""))


class EventReader:
    """Takes an event stream line by line (HTML Living Standard, §9.2). Comments, which keep the connection alive, are ignored."""

    def __init__(self) -> None:
        self.last_id = ""
        """Of the newest event that has one."""
        self._data: list[bytes] = []

    def feed(self, line: bytes) -> AnswerReport | None:
        """The report that this line completes; None: there is none yet.

        Raises:
            PeerMessageError: the event holds no report.
        """
        line = line.rstrip(b"\r\n")
        if line.startswith(b"id:"):
            self.last_id = line.removeprefix(b"id:").strip().decode("ascii", "replace")
            return None
        if line.startswith(b"data:"):
            self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
            return None
        if line or not self._data:
            return None
        body, self._data = b"\n".join(self._data), []
        return decoded(200, body, AnswerReport)


def _multipart(parts: Mapping[str, PartValue]) -> tuple[str, bytes]:
    boundary = f"outrider-{secrets.token_hex(16)}"
    pieces: list[bytes] = []
    for name, value in parts.items():
        data, media_type = _content(name, value)
        field = name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        file = "" if isinstance(value, str) else f'; filename="{field}"'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{file}\r\nContent-Type: {media_type}\r\n\r\n'
        pieces += [head.encode(), data, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def _content(name: str, value: PartValue) -> tuple[bytes, str]:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass"), "text/plain; charset=utf-8"
    if isinstance(value, Path):
        value = read_part(name, value)
    return value, next((kind for magic, kind in _MAGIC if value.startswith(magic)), "application/octet-stream")


def read_part(name: str, path: Path) -> bytes:
    """The bytes of the file that holds a part.

    Raises:
        CallerUnknownError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CallerUnknownError(
            f"part {name!r}: {path} cannot be read: {error.strerror}", reason="unreadable_file", fix="name a file"
        ) from error
