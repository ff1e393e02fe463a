"""This device's key and certificate as files. The key is made here and never leaves.

Key and certificate share one file, so that a renewal replaces both or neither.
"""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outrider_link.files import write_durably
from outrider_wire.errors import OperatorSetupError, PeerError

CERTIFICATE, AUTHORITIES, NEXT_KEY = "device.pem", "ca.pem", "next.key"
ROOT_OF_TRUST = "root.json"
_PEM = serialization.Encoding.PEM


class Lifetime(NamedTuple):
    """When a certificate is good."""

    begins: datetime
    ends: datetime


def pending_request(folder: Path, device: str) -> str:
    """A signing request (PEM) for the key that is to be this device's: made once, so that who asks again is the same.

    Raises:
        OperatorSetupError: the folder cannot be written, or the key in it not be read.
    """
    path = folder / NEXT_KEY
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_durably(path, _key_pem(key), mode=0o600)
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise OperatorSetupError(
            f"this device's key {path} cannot be made or read: {error}",
            reason="identity_unusable",
            fix="check the folder's rights, or remove the file",
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise OperatorSetupError(f"{path} is no EC key", reason="identity_unusable", fix="remove it")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(loaded, hashes.SHA256())
    return request.public_bytes(_PEM).decode()


def store(folder: Path, *, device: str, certificate: str, authorities: str = "") -> Path:
    """Keeps a certificate that came for the pending key; where certificate and key are.

    Raises:
        PeerError: it is for another key or another name.
        OperatorSetupError: it cannot be written.
    """
    path, pending = folder / CERTIFICATE, folder / NEXT_KEY
    try:
        key = serialization.load_pem_private_key(pending.read_bytes(), password=None)
        found = x509.load_pem_x509_certificate(certificate.encode())
        names = [str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        fits = found.public_key() == key.public_key() and names == [device]
    except ValueError:
        fits = False
    if not fits:
        raise PeerError("the certificate that came is not for this device's key and name", reason="wrong_certificate")
    try:
        if authorities:
            write_durably(folder / AUTHORITIES, authorities.encode("ascii"), mode=0o644)
        write_durably(path, found.public_bytes(_PEM) + pending.read_bytes(), mode=0o600)
    except OSError as error:
        raise OperatorSetupError(
            f"the certificate cannot be stored: {error}", reason="identity_unusable", fix="check the folder's rights"
        ) from error
    return path


def store_root(folder: Path, root: str) -> Path:
    """Keeps the root that releases are believed by; where it is.

    Raises:
        OperatorSetupError: it cannot be written.
    """
    path = folder / ROOT_OF_TRUST
    try:
        write_durably(path, root.encode(), mode=0o644)
    except OSError as error:
        raise OperatorSetupError(
            f"the root of trust cannot be stored: {error}", reason="identity_unusable", fix="check the folder's rights"
        ) from error
    return path


def forget_pending(folder: Path) -> None:
    """The next certificate is for another key. To be called last: until then the same request can be made again."""
    (folder / NEXT_KEY).unlink(missing_ok=True)


def lifetime(cert_file: Path) -> Lifetime:
    """When the first certificate of a file is good.

    Raises:
        OperatorSetupError: there is none in it.
    """
    try:
        found = x509.load_pem_x509_certificate(cert_file.read_bytes())
    except (OSError, ValueError) as error:
        raise OperatorSetupError(
            f"{cert_file} holds no certificate that can be read: {error}",
            reason="identity_unusable",
            fix="name the PEM file of this device's certificate, or join again",
        ) from error
    return Lifetime(found.not_valid_before_utc, found.not_valid_after_utc)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
