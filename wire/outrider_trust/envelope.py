"""A signed word of the cloud, an order or a stop: DSSE envelopes. Knows what is signed and by how many, not who may sign.

The signature is over the kind and the payload together (DSSE v1.0.2, protocol.md, ``PAE``), so that no kind passes for another.
The JSON form is DSSE's own: any DSSE library opens it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from outrider_wire.decodable import decodable
from outrider_wire.errors import TrustRefusedError

ENVELOPE_BYTES = 64 * 1024
ORDER_TYPE = "application/vnd.outrider.order+json"
STOP_TYPE = "application/vnd.outrider.stop+json"

T = TypeVar("T")


class EnvelopeSignature(Struct, kw_only=True, frozen=True):
    """One key's signature."""

    keyid: Annotated[str, Meta(max_length=128)]
    sig: Annotated[bytes, Meta(max_length=16 * 1024)]


class Envelope(Struct, kw_only=True, frozen=True, rename="camel"):
    """What travels; in JSON the bytes are Base64."""

    payload_type: Annotated[str, Meta(max_length=128)]
    payload: Annotated[bytes, Meta(max_length=ENVELOPE_BYTES)]
    signatures: Annotated[list[EnvelopeSignature], Meta(min_length=1, max_length=16)]


class EnvelopeSigner(Protocol):
    """Signs bytes with one key. Real: `outrider_trust.keys.PayloadSigner`."""

    keyid: str

    def sign(self, payload: bytes) -> bytes:
        """The signature."""
        ...


Verify = Callable[[bytes, bytes], bool]
"""(signature, message) → whether it is that key's."""

_DECODER = msgspec.json.Decoder(Envelope)


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def seal(kind: str, what: Struct, signers: Iterable[EnvelopeSigner]) -> bytes:
    """An encoded envelope around the JSON of ``what``."""
    payload = msgspec.json.encode(what)
    signatures = [EnvelopeSignature(keyid=each.keyid, sig=each.sign(pae(kind, payload))) for each in signers]
    return msgspec.json.encode(Envelope(payload_type=kind, payload=payload, signatures=signatures))


def unseal(data: bytes, kind: str, type_: type[T], *, keys: Mapping[str, Verify], threshold: int) -> T:
    """What is in an envelope, when enough of these keys have signed it as that kind.

    Args:
        data: the envelope, encoded.
        kind: its payload type.
        type_: the struct that the payload must be.
        keys: those that may sign, by key id.
        threshold: how many different ones must have.

    Raises:
        TrustRefusedError: ``envelope_invalid`` (it does not parse, or is of another kind), ``envelope_unsigned``.
    """
    if len(data) > ENVELOPE_BYTES:
        raise _invalid(f"it has {len(data)} bytes, more than {ENVELOPE_BYTES}")
    try:
        envelope = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _invalid(f"it does not parse: {error}") from error
    if envelope.payload_type != kind:
        raise _invalid(f"it is of kind {envelope.payload_type[:128]!r}, not {kind!r}")
    message = pae(kind, envelope.payload)
    signed = {
        each.keyid for each in envelope.signatures if (verify := keys.get(each.keyid)) and verify(each.sig, message)
    }
    if threshold < 1 or len(signed) < threshold:
        raise TrustRefusedError(
            f"{len(signed)} of {threshold} needed control keys have signed it",
            reason="envelope_unsigned",
            fix="have the cloud sign with the control keys that the targets role delegates to",
        )
    try:
        return msgspec.json.decode(envelope.payload, type=decodable(type_))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _invalid(f"its payload does not parse: {error}") from error


def _invalid(what: str) -> TrustRefusedError:
    return TrustRefusedError(f"the envelope cannot be used: {what}", reason="envelope_invalid")
