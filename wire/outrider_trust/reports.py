"""A device's signed reports and telemetry, opened by whoever knows its public key: the cloud. Believes nothing else of them.

The envelope is DSSE's; the signature is ECDSA over P-256 with SHA-256 (FIPS 186-5, §6), as DER, with the key of the device's
certificate or a key of its own. A key's id is the SHA-256 of its SubjectPublicKeyInfo.
"""

import hashlib
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from outrider_trust.envelope import unseal
from outrider_wire.errors import TrustRefusedError
from outrider_wire.messages import Reported, Telemetry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

REPORT_TYPE = "application/vnd.outrider.report+json"
TELEMETRY_TYPE = "application/vnd.outrider.telemetry+json"

T = TypeVar("T", bound=Struct)


def key_id(key: "EllipticCurvePublicKey") -> str:
    """Names a public key."""
    return hashlib.sha256(public_der(key)).hexdigest()


def read_key(der: bytes) -> "EllipticCurvePublicKey":
    """A public key from `Reported.key`.

    Raises:
        TrustRefusedError: ``report_key``: it is no key over P-256.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - a start need not wait for it
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above

    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustRefusedError("what the report is signed with is no key", reason="report_key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustRefusedError("the report's key is not one over P-256", reason="report_key")
    return key


def public_der(key: "EllipticCurvePublicKey") -> bytes:
    """A public key as SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above

    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def open_report(data: bytes, key: "EllipticCurvePublicKey", *, device: str) -> Reported:
    """What a device has told under its signature. Whether its number is new is the caller's to know.

    Args:
        data: `Reported.signed`.
        key: the device's.
        device: its name.

    Raises:
        TrustRefusedError: ``envelope_invalid``, ``envelope_unsigned``, ``report_other_device``.
    """
    return _of(device, _opened(data, REPORT_TYPE, Reported, key))


def open_telemetry(data: bytes, key: "EllipticCurvePublicKey", *, device: str) -> Telemetry:
    """The same of `Telemetry.signed`."""
    return _of(device, _opened(data, TELEMETRY_TYPE, Telemetry, key))


Told = TypeVar("Told", Reported, Telemetry)


def _of(device: str, told: Told) -> Told:
    if told.device != device:
        raise TrustRefusedError(f"the report is of {told.device}, not of {device}", reason="report_other_device")
    return told


def _opened(data: bytes, kind: str, shape: type[T], key: "EllipticCurvePublicKey") -> T:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    return unseal(data, kind, shape, keys={key_id(key): verify}, threshold=1)
