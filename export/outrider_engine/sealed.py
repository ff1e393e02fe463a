"""Bytes under a seal: what they were made of and by, and a digest, so that another's or a damaged copy is refused. Pure.

::

    outrider-sealed-1\n | length of the header (4 bytes, big-endian) | header (JSON) | payload

The digest finds damage. It is no signature: who may write the file is for `outrider_engine.cache_folder` to guard.
"""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from outrider_wire.errors import BundleDamagedError, BundleMismatchError

MAGIC = b"outrider-sealed-1\n"
MAX_HEADER = 64 * 1024

Facts = Mapping[str, str]
"""What a payload was made of and by: name → value, all of which must be the same for it to be used."""


class _Header(Struct, kw_only=True, frozen=True):
    facts: dict[str, str]
    size: int
    sha256: str


_DECODER = msgspec.json.Decoder(_Header)


def seal(payload: bytes, facts: Facts) -> bytes:
    """The payload under a seal that names ``facts``."""
    digest = hashlib.sha256(payload).hexdigest()
    header = msgspec.json.encode(_Header(facts=dict(sorted(facts.items())), size=len(payload), sha256=digest))
    return b"".join((MAGIC, len(header).to_bytes(4, "big"), header, payload))


def unseal(data: bytes, facts: Facts) -> bytes:
    """The payload, if it is whole and was made under just these ``facts``.

    Raises:
        BundleDamagedError: it is not what was sealed (reason ``seal_damaged``).
        BundleMismatchError: it was made of or by something else (reason ``seal_foreign``); the sentence says what.
    """
    header, payload = _split(data)
    differ = [name for name in sorted({*header.facts, *facts}) if header.facts.get(name) != facts.get(name)]
    if differ:
        said = ", ".join(f"{name} {header.facts.get(name, 'none')}, not {facts.get(name, 'none')}" for name in differ)
        raise BundleMismatchError(f"it was made for {said}", reason="seal_foreign", fix="it is built again here")
    if len(payload) != header.size or hashlib.sha256(payload).hexdigest() != header.sha256:
        raise _damaged("its bytes are not the ones that were sealed")
    return payload


def _split(data: bytes) -> tuple[_Header, bytes]:
    start = len(MAGIC) + 4
    if not data.startswith(MAGIC) or len(data) < start:
        raise _damaged("it does not begin like one")
    length = int.from_bytes(data[len(MAGIC) : start], "big")
    if length > MAX_HEADER or len(data) < start + length:
        raise _damaged("its header is cut off")
    try:
        return _DECODER.decode(data[start : start + length]), data[start + length :]
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _damaged("its header cannot be read") from error


def _damaged(what: str) -> BundleDamagedError:
    return BundleDamagedError(f"damaged: {what}", reason="seal_damaged", fix="it is built again here")
