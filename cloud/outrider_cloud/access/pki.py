"""Certificates: an authority of one's own, what it signs, what it takes back. Knows X.509 (RFC 5280), no file and no clock.

Keys are ECDSA over P-256. The authority signs names that it has judged itself: of a request only the key is taken.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.joining import PEM_BYTES, check_device_name

AUTHORITY_DAYS = 3650
SERVICE_DAYS = 730
DEVICE_DAYS = 90
"""A device renews by itself when a third of this is left."""
_BACKDATED = timedelta(hours=1)
"""A clock that is a little slow must not refuse what was signed a moment ago."""
_PEM = serialization.Encoding.PEM

PrivateKey = ec.EllipticCurvePrivateKey


class Authority(NamedTuple):
    """Who signs."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: str
    """PEM of its certificate and of those above it, as devices trust them."""


class Issued(NamedTuple):
    """A certificate that was signed."""

    pem: str
    serial: str
    """Hexadecimal, as TLS libraries show it: upper case, an even number of digits."""
    not_after: datetime


def new_key() -> PrivateKey:
    """A fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """A private key as a file holds it, unencrypted: its rights protect it."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def new_authority(name: str, *, now: datetime) -> Authority:
    """A self-signed authority that signs end certificates and nothing below."""
    key = new_key()
    subject = _named(name)
    builder = (
        _builder(subject, subject, key.public_key(), now=now, until=now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Authority(certificate, key, certificate.public_bytes(_PEM).decode())


def read_authority(chain: bytes, key: bytes) -> Authority:
    """An authority from its files: its certificate first, those above it after.

    Raises:
        OperatorConfigError: they hold no certificate and key of an authority that belong together.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        loaded = serialization.load_pem_private_key(key, password=None)
        constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise _no_authority(str(error)) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise _no_authority("the key is not one over an elliptic curve")
    if loaded.public_key() != certificates[0].public_key() or not constraints.ca:
        raise _no_authority("the key is not that of the first certificate, or that one may not sign")
    text = "".join(one.public_bytes(_PEM).decode() for one in certificates)
    return Authority(certificates[0], loaded, text)


def fingerprint(chain: str) -> str:
    """SHA-256 over the certificates (DER, in order): what a join line carries.

    Raises:
        ValueError: there is no certificate in it.
    """
    found = x509.load_pem_x509_certificates(chain.encode())
    return hashlib.sha256(b"".join(one.public_bytes(serialization.Encoding.DER) for one in found)).hexdigest()


def issue_service(
    authority: Authority, name: str, key: PrivateKey, *, hosts: Sequence[str], now: datetime, days: int = SERVICE_DAYS
) -> Issued:
    """A certificate for a server that is reached as one of ``hosts`` (with hosts), or for a client of the broker (without)."""
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _end(authority, name, key.public_key(), usage=usage, now=now, days=days)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return _signed(builder, authority)


def issue_device(
    authority: Authority, device: str, request: str, *, now: datetime, days: float = DEVICE_DAYS
) -> Issued:
    """A device's certificate for the key in its request.

    Raises:
        CallerInputError: the request is none, is not signed with its own key, is for another name, or holds a weak key; or
            no device may be called so.
    """
    check_device_name(device)
    csr = read_request(request)
    if _common_names(csr.subject) != [device]:
        raise CallerInputError(
            f"the request is not in the name of {device!r} alone",
            reason="invalid_request",
            fix="make the request for that name",
        )
    builder = _end(authority, device, csr.public_key(), usage=ExtendedKeyUsageOID.CLIENT_AUTH, now=now, days=days)
    return _signed(builder, authority)


def read_request(request: str) -> x509.CertificateSigningRequest:
    """A certificate signing request whose sender holds the key.

    Raises:
        CallerInputError: it is none, or its signature or key is not good enough.
    """
    if len(request) > PEM_BYTES:
        raise _bad_request(f"it is longer than {PEM_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(request.encode())
        sound, key = csr.is_signature_valid, csr.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _bad_request(str(error)[:200]) from error
    if not sound:
        raise _bad_request("it is not signed with its own key")
    good = isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    )
    if not good:
        raise _bad_request("its key is neither P-256, P-384 nor Ed25519")
    return csr


def key_digest(request: str) -> str:
    """SHA-256 of the public key in a request: by it a device that asks again is known."""
    public = read_request(request).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def revocations(authority: Authority, serials: Iterable[str], *, now: datetime, before: bytes = b"") -> bytes:
    """The list of what is taken back, PEM; entries of the list ``before`` stay.

    It is good for as long as its authority is: it goes to one broker straight from here, where a list that runs out would
    lock every device out and keep no one out.

    Raises:
        OperatorConfigError: ``before`` is no such list.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _BACKDATED)
        .next_update(authority.certificate.not_valid_after_utc)
    )
    old, number = _old_entries(before)
    for entry in old.values():
        builder = builder.add_revoked_certificate(entry)
    for serial in sorted({int(each, 16) for each in serials} - set(old)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.add_extension(x509.CRLNumber(number + 1), critical=False).sign(authority.key, hashes.SHA256())
    return signed.public_bytes(_PEM)


def revoked_serials(crl: bytes) -> set[str]:
    """The serials on a list.

    Raises:
        OperatorConfigError: it is none.
    """
    return {serial_text(serial) for serial in _old_entries(crl)[0]}


def serial_text(serial: int) -> str:
    """As Python's and OpenSSL's TLS show a serial."""
    text = f"{serial:X}"
    return f"0{text}" if len(text) % 2 else text


def _old_entries(crl: bytes) -> tuple[dict[int, x509.RevokedCertificate], int]:
    if not crl:
        return {}, 0
    try:
        old = x509.load_pem_x509_crl(crl)
        number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        raise OperatorConfigError(
            "the list of revoked certificates cannot be read",
            reason="crl_unreadable",
            fix="restore it from a copy, or remove it: the cloud writes it anew from its store",
        ) from error
    return {entry.serial_number: entry for entry in old}, number


def _end(
    authority: Authority, name: str, public: object, *, usage: x509.ObjectIdentifier, now: datetime, days: float
) -> x509.CertificateBuilder:
    issuer = authority.certificate
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    return (
        _builder(_named(name), issuer.subject, public, now=now, until=until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: object, *, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]  # judged by read_request, or made here
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
    )


def _signed(builder: x509.CertificateBuilder, authority: Authority) -> Issued:
    made = builder.sign(authority.key, hashes.SHA256())
    return Issued(made.public_bytes(_PEM).decode(), serial_text(made.serial_number), made.not_valid_after_utc)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _common_names(name: x509.Name) -> list[str]:
    return [str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _bad_request(why: str) -> CallerInputError:
    return CallerInputError(
        f"the certificate request cannot be taken: {why}",
        reason="invalid_request",
        fix="send a PKCS #10 request in PEM for a P-256 key",
    )


def _no_authority(why: str) -> OperatorConfigError:
    return OperatorConfigError(
        f"the authority's certificate and key cannot be used: {why}",
        reason="authority_unusable",
        fix="name the PEM file of a certificate that may sign, and that of its EC key",
    )


def utc_now_from_ms(stamp_ms: int) -> datetime:
    """A store's time as certificates hold it."""
    return datetime.fromtimestamp(stamp_ms // 1000, UTC)
