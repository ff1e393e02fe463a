"""Keys that sign: encrypted files, hardware and cloud key services, each by a URI. Knows no role.

``file:PATH`` is an Ed25519 key in PKCS#8 PEM, encrypted. (python's securesystemslib opens plain files only, so these are opened here.)
All others are securesystemslib's: ``hsm:``, ``awskms:``, ``gcpkms:``, ``azurekms:``, ``hv:`` (Vault), ``gnupg:``, ``tkey:``; each wants
its own library, which the error names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from securesystemslib.exceptions import Error, UnsupportedLibraryError
from securesystemslib.signer import (  # type: ignore[attr-defined]
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signer,
    SSlibKey,
    VaultSigner,
)

from outrider_link.files import write_durably
from outrider_trust.facts import FILE
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, UnreachableError

URI_FIELD = "x-outrider-key-uri"
"""In a public key in signed metadata: where its private one is, without any secret."""

Passphrase = Callable[[str], bytes]
"""Of the key file of that name; asked for when the file is encrypted."""


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
        "hsm": HSMSigner.import_,
        "awskms": lambda: AWSSigner.import_(rest),
        "gcpkms": lambda: GCPSigner.import_(rest),
        "azurekms": lambda: AzureSigner.import_(*_vault_and_name(rest)),
        "hv": lambda: VaultSigner.import_(rest.partition("/")[0]),
    }
    if scheme not in imports:
        raise _unknown(uri)
    found: tuple[str, SSlibKey] = _reached(uri, imports[scheme])
    return _named(found[1], found[0])


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
    signer: Signer = _reached(
        uri, lambda: Signer.from_priv_key_uri(uri, public, lambda what: passphrase(what).decode())
    )
    return signer


def _reached(uri: str, what: Callable[[], Any]) -> Any:
    try:
        return what()
    except UnsupportedLibraryError as error:
        raise OperatorSetupError(
            f"the key {uri} needs a library that is not here: {error}", reason="key_library", fix="install it"
        ) from error
    except ValueError as error:
        raise _unknown(uri) from error
    except (Error, OSError) as error:
        raise UnreachableError(f"the key {uri} does not answer: {error}", reason="key_service") from error


def _unknown(uri: str) -> OperatorConfigError:
    return OperatorConfigError(
        f"{uri} is not the URI of a key",
        reason="key_uri",
        fix="give file:PATH, hsm:ID?label=TOKEN, awskms:ID, gcpkms:NAME, azurekms://VAULT/keys/NAME or hv:NAME/VERSION",
    )


def _vault_and_name(rest: str) -> tuple[str, str]:
    parts = [part for part in rest.split("/") if part and part != "keys"]
    if len(parts) < 2:
        raise ValueError(rest)
    return parts[0].partition(".")[0], parts[1]


def _named(key: SSlibKey, uri: str) -> SSlibKey:
    key.unrecognized_fields[URI_FIELD] = uri
    return key
