"""Keys that sign: encrypted files, hardware and cloud key services, each by a URI. Knows no role.

``file:PATH`` is an Ed25519 key in PKCS#8 PEM, encrypted. (python's securesystemslib opens plain files only, so these are opened here.)
All others are securesystemslib's: ``hsm:`` (a PKCS#11 token), ``awskms:``, ``gcpkms:``, ``azurekms:`` and ``hv:`` (Vault); each wants its
own library, which the error names.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (  # type: ignore[attr-defined]
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signature,
    Signer,
    SSlibKey,
    VaultSigner,
)
from tuf.api.exceptions import UnsignedMetadataError

from outrider_link.files import write_durably
from outrider_trust.facts import FILE
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, OutriderError, UnreachableError

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata

T = TypeVar("T")

URI_FIELD = "x-outrider-key-uri"
"""In a public key in signed metadata: where its private one is, without any secret."""

PIN = " (pin)"
"""Ending of what a `Passphrase` is asked for, when it is a token's PIN."""
MODULE = "PYKCS11LIB"
"""Environment variable with the path of the token's PKCS#11 library, as securesystemslib reads it."""
_LIBRARIES = {"hsm": "hsm", "awskms": "awskms", "gcpkms": "gcpkms", "azurekms": "azurekms", "hv": "vault"}
"""By scheme, the extra of securesystemslib that brings its library."""

Passphrase = Callable[[str], bytes]
"""Of the key file of that name, asked for when the file is encrypted; or of a key's URI and `PIN`."""


class PayloadSigner:
    """Signs envelopes with a key; an `outrider_trust.envelope.EnvelopeSigner`."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.keyid: str = signer.public_key.keyid

    def sign(self, payload: bytes) -> bytes:
        """The signature."""
        return bytes.fromhex(self._signer.sign(payload).signature)


def new_key(path: Path, passphrase: bytes) -> SSlibKey:
    """Makes an Ed25519 key in a file that only its owner may read; durable when it returns.

    Args:
        path: the file, which must not be there.
        passphrase: it is encrypted with it; empty: it is not, as a daemon's key that nobody is there to unlock.

    Raises:
        OperatorConfigError: ``key_exists``.
    """
    if path.exists():
        raise OperatorConfigError(f"there is a key in {path} already", reason="key_exists", fix="choose another name")
    private = Ed25519PrivateKey.generate()
    sealing: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    write_durably(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing), mode=0o600)
    return _named(CryptoSigner(private).public_key, f"{FILE}:{path.name}")


def open_file(path: Path, passphrase: Passphrase) -> CryptoSigner:
    """The signer of a key file.

    Raises:
        OperatorConfigError: ``key_missing``, ``key_unreadable``, ``key_locked`` (a wrong passphrase).
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise OperatorConfigError(f"the key {path} cannot be read: {error}", reason="key_missing") from error
    secret = passphrase(path.name) if b"ENCRYPTED" in pem else None
    try:
        return CryptoSigner(load_pem_private_key(pem, secret or None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if secret is None and b"ENCRYPTED" not in pem:
            raise OperatorConfigError(f"{path} is not a private key in PEM", reason="key_unreadable") from error
        raise OperatorConfigError(
            f"the passphrase does not open {path}", reason="key_locked", fix="give the passphrase that it was made with"
        ) from error


def public_key(uri: str, passphrase: Passphrase) -> SSlibKey:
    """The public key behind a URI, to be named in metadata; it carries the URI, so that it can sign later.

    Raises:
        OperatorConfigError, OperatorSetupError, UnreachableError: as `open_signer`.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == FILE:
        return _named(open_file(Path(rest), passphrase).public_key, f"{FILE}:{Path(rest).name}")
    imports: dict[str, Callable[[], tuple[str, SSlibKey]]] = {
        "hsm": lambda: HSMSigner.import_(*_id_and_token(rest), lambda _: passphrase(f"{uri}{PIN}").decode()),
        "awskms": lambda: AWSSigner.import_(rest),
        "gcpkms": lambda: GCPSigner.import_(rest),
        "azurekms": lambda: AzureSigner.import_(*_vault_and_name(rest)),
        "hv": lambda: VaultSigner.import_(rest.partition("/")[0]),
    }
    if scheme not in imports:
        raise _unknown(uri)
    found: tuple[str, SSlibKey] = _reached(uri, imports[scheme])
    return _named(found[1], found[0])


def key_named(keys: Iterable[Key], uri: str) -> Key | None:
    """The key that metadata names by that URI; it may leave out what the metadata says at its end: the token, the version."""
    for key in keys:
        where = key.unrecognized_fields.get(URI_FIELD, "")
        if where == uri or where.startswith((f"{uri}?", f"{uri}/")):
            return key
    return None


def open_signer(uri: str, passphrase: Passphrase, *, public: Key | None = None) -> Signer:
    """A signer from its URI.

    Args:
        uri: see the module; for all but files also the public key must be given, as the metadata names it.
        passphrase: see `Passphrase`; also a hardware key's PIN.

    Raises:
        OperatorConfigError: ``key_missing``, ``key_unreadable``, ``key_locked``, ``key_uri``.
        OperatorSetupError: ``key_library``: the library for this kind of key is not here.
        UnreachableError: ``key_service``: the service or token does not answer.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == FILE:
        return open_file(Path(rest), passphrase)
    if public is None:
        raise OperatorConfigError(
            f"no metadata names the key {uri}", reason="key_uri", fix="add it to a role first: outrider ota keys add"
        )
    if scheme not in _LIBRARIES:
        raise _unknown(uri)
    where = public.unrecognized_fields.get(URI_FIELD, uri)

    def secret(_: str) -> str:
        return passphrase(f"{uri}{PIN}").decode()

    return _Reached(uri, _reached(uri, lambda: Signer.from_priv_key_uri(where, public, secret)))


class _Reached(Signer):
    """A signer elsewhere, whose errors are ours: a token or a service is asked anew for each signature."""

    def __init__(self, uri: str, signer: Signer) -> None:
        self._uri = uri
        self._signer = signer

    @property
    def public_key(self) -> Key:
        return self._signer.public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None) -> Signer:
        raise NotImplementedError("open_signer makes it")

    def sign(self, payload: bytes) -> Signature:
        """As the one elsewhere; errors as `open_signer`."""
        return _reached(self._uri, lambda: self._signer.sign(payload))


def add_signature(metadata: "Metadata[Any]", signer: Signer) -> None:
    """Adds a signature to metadata; a key that signs twice counts once.

    Raises:
        OutriderError: as `open_signer`; python-tuf would hide it in one of its own.
    """
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, OutriderError):
            raise error.__cause__ from error
        raise


def _reached(uri: str, what: Callable[[], T]) -> T:
    scheme = uri.partition(":")[0]
    if scheme == "hsm" and not os.environ.get(MODULE):
        raise OperatorSetupError(
            f"the key {uri} is in a PKCS#11 token, and its library is not named",
            reason="key_library",
            fix=f"set {MODULE}, as to /usr/lib/softhsm/libsofthsm2.so",
        )
    try:
        return what()
    except OutriderError:
        raise
    except (UnsupportedLibraryError, ImportError) as error:
        raise OperatorSetupError(
            f"the key {uri} needs a library that is not here: {error}",
            reason="key_library",
            fix=f"pip install 'securesystemslib[{_LIBRARIES[scheme]}]'",
        ) from error
    except Exception as error:  # each service's library has errors of its own, which know no common base
        said = str(error) or type(error).__name__
        if type(error).__name__.startswith("Pin"):  # PinIncorrect, PinLocked, …: of python-pkcs11
            raise OperatorConfigError(
                f"the PIN does not open the token of {uri}: {said}", reason="key_locked", fix="give the token's PIN"
            ) from error
        raise UnreachableError(
            f"the key {uri} cannot be used: {said}",
            reason="key_service",
            fix="look whether the token or service is there, the key in it, and the PIN or the rights right",
        ) from error


def _unknown(uri: str) -> OperatorConfigError:
    return OperatorConfigError(
        f"{uri} is not the URI of a key",
        reason="key_uri",
        fix="give file:PATH, hsm:ID?label=TOKEN, awskms:ID, gcpkms:NAME, azurekms://VAULT/keys/NAME or hv:NAME/VERSION",
    )


def _id_and_token(rest: str) -> tuple[int, str | None]:
    """Of ``hsm:ID?label=TOKEN``; both may be left out."""
    number, _, query = rest.partition("?")
    if number and not (number.isascii() and number.isdigit()):
        raise _unknown(f"hsm:{rest}")
    return int(number or HSMSigner.SCHEME_KEYID), dict(parse_qsl(query)).get("label")


def _vault_and_name(rest: str) -> tuple[str, str]:
    parts = [part for part in rest.split("/") if part and part != "keys"]
    if len(parts) < 2:
        raise _unknown(f"azurekms:{rest}")
    return parts[0].partition(".")[0], parts[1]


def _named(key: SSlibKey, uri: str) -> SSlibKey:
    key.unrecognized_fields[URI_FIELD] = uri
    return key
