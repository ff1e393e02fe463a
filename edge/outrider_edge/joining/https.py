"""HTTPS to the cloud's API with the standard library, trusting exactly whom it is told to. Knows no route."""

import hashlib
import hmac
import http.client
import re
import ssl
from base64 import b64decode
from binascii import Error as Base64Error
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from outrider_wire.decodable import decodable
from outrider_wire.errors import (
    CallerInputError,
    OperatorSetupError,
    OutriderError,
    PeerError,
    PeerMessageError,
    RuleRefusalError,
    UnreachableError,
)
from outrider_wire.joining import PEM_BYTES

T = TypeVar("T")
TIMEOUT_S = 20.0
_REPLY_BYTES = 64 * 1024
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")


def pinned(url: str, path: str, fingerprint: str) -> str:
    """The authorities (PEM) that are served at ``path``, when they are those of the fingerprint.

    They come over a connection that is not to be trusted: nothing is sent on it, and only the fingerprint decides.

    Raises:
        RuleRefusalError: they are others: somebody stands between, or the line is of another site.
        UnreachableError: nobody answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    status, body = _request(url, "GET", path, context=context)
    found = _authorities(body.decode("ascii", "replace")) if status == 200 and len(body) <= PEM_BYTES else []
    if not hmac.compare_digest(_fingerprint(found), fingerprint):
        raise RuleRefusalError(
            f"the cloud at {url} is not the one that the join line is of",
            reason="wrong_authority",
            fix="make sure that nobody stands between, and ask for a new join line",
        )
    return "".join(map(ssl.DER_cert_to_PEM_cert, found))  # nothing that was not hashed: OpenSSL reads other labels too


def trusting(authorities: str) -> ssl.SSLContext:
    """A client context that trusts these authorities (PEM) and no other.

    Raises:
        PeerError: they are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the first of them may itself be signed by another
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise PeerError("what the cloud calls its authorities are none", reason="authorities_unusable") from error
    return context


def with_certificate(ca_file: Path, cert_file: Path) -> ssl.SSLContext:
    """The same from files, with this device's certificate and key.

    Raises:
        OperatorSetupError: the files cannot be used.
    """
    try:
        context = trusting(ca_file.read_text("ascii"))
        context.load_cert_chain(cert_file)
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorSetupError(
            f"this device's certificate cannot be used: {error}",
            reason="identity_unusable",
            fix="check broker.ca_file and broker.cert_file, or join again",
        ) from error
    return context


def post(url: str, path: str, body: msgspec.Struct, kind: type[T], *, context: ssl.SSLContext) -> T:
    """One POST of JSON, and its reply.

    Raises:
        UnreachableError: nobody answers, or the cloud cannot do it now.
        OperatorSetupError: the cloud's certificate is not to be trusted.
        RuleRefusalError: it refuses, and says why.
        PeerError: what comes back is no reply of ours.
    """
    status, said = _request(url, "POST", path, context=context, body=msgspec.json.encode(body))
    if status >= 300:
        raise _error_of(status, said)
    try:
        return msgspec.json.decode(said, type=decodable(kind))
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerMessageError(f"the reply of {url} does not parse: {error}", reason="unparsable") from error


def _request(
    url: str, method: str, path: str, *, context: ssl.SSLContext, body: bytes | None = None
) -> tuple[int, bytes]:
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(
        where.hostname or "", where.port or 443, timeout=TIMEOUT_S, context=context
    )
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read(_REPLY_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise OperatorSetupError(
            f"the certificate of {url} is not to be trusted: {error.verify_message}",
            reason="cloud_certificate",
            fix="check this machine's clock, and that the address is one that the cloud's certificate names",
        ) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(
            f"the cloud at {url} does not answer ({why})",
            reason="cloud_unreachable",
            fix="check the address, the network, and that `outrider cloud serve` runs there",
        ) from error
    finally:
        connection.close()


class _Told(msgspec.Struct, kw_only=True):
    reason: str = ""
    what: str = ""
    fix: str = ""


class _ErrorBody(msgspec.Struct, kw_only=True):
    error: _Told


def _error_of(status: int, body: bytes) -> OutriderError:
    try:
        told = msgspec.json.decode(body, type=decodable(_ErrorBody)).error
    except (msgspec.MsgspecError, ValueError):
        told = _Told()
    what, reason = told.what or f"the cloud replied with status {status}", told.reason or f"http_{status}"
    if status == 503:
        return UnreachableError(what, reason=reason, fix=told.fix)
    if status in (401, 403, 409, 429):
        return RuleRefusalError(what, reason=reason, fix=told.fix)
    return (CallerInputError if status in (400, 413) else PeerError)(what, reason=reason, fix=told.fix)


def _authorities(pem: str) -> list[bytes]:
    """The certificates (DER) in a text; none where one of them is none. What has not been judged yet is not read any further."""
    try:
        return [b64decode("".join(block.split()), validate=True) for block in _CERTIFICATE.findall(pem)]
    except (Base64Error, ValueError):
        return []


def _fingerprint(certificates: list[bytes]) -> str:
    """As `outrider_cloud.access.pki.fingerprint`."""
    return hashlib.sha256(b"".join(certificates)).hexdigest()
