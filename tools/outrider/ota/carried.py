"""A proposed file on a signer's own machine, where there is no repository: what it would change, and one signature more."""

from pathlib import Path
from typing import Any

from msgspec import Struct
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from outrider.ota.workplace import Workplace
from outrider_link.files import write_durably
from outrider_trust.facts import CONTROL, FILE
from outrider_trust.keys import add_signature, key_named, open_file, open_signer
from outrider_trust.repository import KINDS
from outrider_wire.errors import OperatorConfigError, TrustRefusedError


class Carried(Struct, kw_only=True):
    """What a person reads before, and gets after."""

    about: list[str]
    signatures: int


def described(metadata: "Metadata[Any]") -> list[str]:
    """What a version says, line by line: who may sign how much, and what is released."""
    signed = metadata.signed
    about = [f"{signed.type} version {signed.version}, expires {signed.expires:%Y-%m-%d}"]
    for role, named in sorted(getattr(signed, "roles", {}).items()):
        about.append(f"  {role}: {named.threshold} of {', '.join(sorted(id_[:12] for id_ in named.keyids))}")
    delegations = getattr(signed, "delegations", None)
    for role, delegated in sorted(((delegations.roles or {}) if delegations else {}).items()):
        what = "orders and stops" if role == CONTROL else ", ".join(delegated.paths or [])
        about.append(f"  {role}: {what}: {delegated.threshold} of {', '.join(id_[:12] for id_ in delegated.keyids)}")
    return [*about, *(f"  names {target}" for target in sorted(getattr(signed, "targets", {})))]


def sign_file(place: Workplace, path: Path, uris: list[str], *, dry_run: bool = False) -> Carried:
    """Adds signatures to a file in its place; with ``dry_run`` only says what is in it.

    Raises:
        OperatorConfigError: ``metadata_damaged``: it is none; a key cannot be opened.
        TrustRefusedError: ``foreign_key``: the key's signature would count for nothing, as far as can be known here.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    except (OSError, RepositoryError) as error:
        raise OperatorConfigError(f"{path} is no metadata: {error}", reason="metadata_damaged") from error
    about = described(metadata)
    if dry_run:
        return Carried(about=about, signatures=len(metadata.signatures))
    named, certain = _may_sign(place, path, metadata)
    signers = [(uri, _signer(place, uri, metadata)) for uri in uris]
    for uri, signer in signers:
        if signer.public_key.keyid in named:
            continue
        if certain:
            raise TrustRefusedError(
                f"this {metadata.signed.type} is not signed with the key {uri}",
                reason="foreign_key",
                fix="compare the key ids: outrider ota keys sign FILE --dry-run",
            )
        about.append(f"the file does not name {uri}: it counts only if whoever vouches for this role does")
    for _, signer in signers:
        add_signature(metadata, signer)
    write_durably(path, metadata.to_bytes())
    return Carried(about=about, signatures=len(metadata.signatures))


def _may_sign(place: Workplace, path: Path, metadata: "Metadata[Any]") -> tuple[set[str], bool]:
    """Ids of keys whose signature counts; and whether those are all. A first root names its own, a later one the root before too."""
    signed = metadata.signed
    role = signed.type if signed.type in KINDS and signed.type != "targets" else path.stem.rpartition(".")[2]
    own = set(signed.roles["root"].keyids) if signed.type == "root" else set()
    if signed.type == "root" and signed.version == 1:
        return own, True
    if not any(place.repository.metadata.glob("*.root.json")):
        return own, False
    return own | place.may_sign(role, metadata), True


def _signer(place: Workplace, uri: str, metadata: "Metadata[Any]") -> Any:
    scheme, _, rest = uri.partition(":")
    if scheme == FILE:
        return open_file(Path(rest), place.passphrase)
    public = getattr(metadata.signed, "keys", {}).values()
    return open_signer(uri, place.passphrase, public=key_named(public, uri))
