"""The head of a request for an answer, as far as it is plain: HTTP/1.1, a known length, no field that changes what the bytes mean
(RFC 9112). Pure. What is not plain is not wrong: it is read by somebody else.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from outrider_edge.local_api.replies import from_here
from outrider_edge.local_api.submission import NO_WISHES, Wishes, wishes_of
from outrider_wire.errors import CallerInputError
from outrider_wire.names import NAME_GRAMMAR

MOST_BYTES = 4096
"""Of a head."""
_WISH = r"[a-z_]+=[A-Za-z0-9._~-]*"
_ASKED = re.compile(rf"POST /v1/tasks/({NAME_GRAMMAR})/answers(?:\?({_WISH}(?:&{_WISH})*))? HTTP/1\.1")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_LENGTH = re.compile(r"[0-9]{1,12}")
_NOT_PLAIN = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer", "connection"})
"""Fields that change how the body, or the connection, is to be read."""


class PlainHead(NamedTuple):
    """All that matters of it."""

    task: str
    content_type: str
    length: int
    """Bytes of the body."""
    wishes: Wishes
    here: bool
    """Its ``Host`` and ``Origin`` are this machine's."""


@lru_cache(maxsize=64)
def plain_head(head: bytes) -> PlainHead | None:
    """What stands before the empty line, or None where it is not plain. A client's requests mostly have one head: it is read once."""
    asked, *lines = head.decode("latin-1").split("\r\n")
    if (found := _ASKED.fullmatch(asked)) is None:
        return None
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or name in fields or not _TOKEN.fullmatch(name) or not (value.isascii() and value.isprintable()):
            return None
        fields[name] = value
    if fields.get("connection", "").lower() == "keep-alive":  # what HTTP/1.1 does anyway
        del fields["connection"]
    length, host = fields.get("content-length", ""), fields.get("host", "")
    if not _NOT_PLAIN.isdisjoint(fields) or not host or not _LENGTH.fullmatch(length):
        return None
    try:
        wishes = wishes_of(_unique(found[2])) if found[2] else NO_WISHES
    except (CallerInputError, ValueError):
        return None  # it is told, and counted, where all else is
    here = from_here(host, fields.get("origin"))
    return PlainHead(found[1], fields.get("content-type", ""), int(length), wishes, here)


def _unique(query: str) -> dict[str, str]:
    """The pairs of a query that needs no decoding.

    Raises:
        ValueError: a key comes twice.
    """
    pairs = [pair.partition("=")[::2] for pair in query.split("&")]
    if len(wishes := dict(pairs)) < len(pairs):
        raise ValueError(query)
    return wishes
