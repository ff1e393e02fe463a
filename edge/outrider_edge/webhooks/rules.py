"""What is posted, how it is signed, and what a receiver's reply means. Pure: no clock, no socket.

Signed as Standard Webhooks 1.0.0 says (https://github.com/standard-webhooks/standard-webhooks, ``spec/standard-webhooks.md``), for
which receivers have libraries: HMAC-SHA256 of ``id.timestamp.body``.
"""

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Literal

import msgspec

from outrider_wire.report import AnswerReport

PREFIX = "whsec_"
SHORTEST_KEY = 24
"""Bytes; the specification's least."""
LONGEST_PAUSE_S = 300.0
Verdict = Literal["taken", "again", "refused"]
_REFUSED = frozenset({400, 410, 413, 415, 422})
"""By these a receiver says that it will never take this report, or none any more. Everything else may be mended on its side."""


def wanted(report: AnswerReport, *, tasks: Sequence[str], late: bool) -> bool:
    """Whether a sink with these filters is told."""
    return (not tasks or report.task in tasks) and (report.late or not late)


def body_of(report: AnswerReport, device: str) -> bytes:
    """What is posted: always the same for one report."""
    return msgspec.json.encode({"type": "answer.final", "device": device, "data": report})


def headers_of(report_id: str, at_s: int, body: bytes, key: bytes | None) -> dict[str, str]:
    """The headers of one post; ``at_s``: Unix time of this try, by which a receiver tells an old one from a new one."""
    headers = {"Content-Type": "application/json", "webhook-id": report_id, "webhook-timestamp": str(at_s)}
    if key is not None:
        digest = hmac.digest(key, b"%s.%d.%s" % (report_id.encode(), at_s, body), "sha256")
        headers["webhook-signature"] = "v1," + b64encode(digest).decode()
    return headers


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: base64 after ``whsec_``, else its own characters.

    Raises:
        ValueError: it is no base64, or shorter than `SHORTEST_KEY`.
    """
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else secret.encode()
    except binascii.Error as error:
        raise ValueError(f"no base64 follows {PREFIX}") from error
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"it has {len(key)} bytes, fewer than {SHORTEST_KEY}")
    return key


def verdict(status: int) -> Verdict:
    """What an HTTP status says of a report."""
    if 200 <= status < 300:
        return "taken"
    return "refused" if status in _REFUSED else "again"


def pause_s(attempt: int, roll: float, retry_after: str = "") -> float:
    """Seconds before the try after number ``attempt``, from 0: as the receiver asks, else exponential with full jitter.

    ``roll`` is uniform in [0, 1).
    """
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9:
        return min(LONGEST_PAUSE_S, float(retry_after)) + roll
    return roll * min(LONGEST_PAUSE_S, 2.0 ** min(attempt, 16))
