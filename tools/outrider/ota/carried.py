"""A proposed file on a signer's own machine, where there is no repository: what it would change, and one signature more."""

from pathlib import Path

from msgspec import Struct
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from outrider.ota.workplace import Workplace
from outrider_link.files import write_durably
from outrider_trust.facts import CONTROL, FILE
from outrider_trust.keys import open_file, open_signer
from outrider_wire.errors import OperatorConfigError, TrustRefusedError


class Carried(Struct, kw_only=True):
    """What a person reads before, and gets after."""

    about: list[str]
    signatures: int


def sign_file(place: Workplace, path: Path, uris: list[str], *, dry_run: bool = False) -> Carried:
    """Adds signatures to a file in its place; with ``dry_run`` only says what is in it.

    Raises:
        OperatorConfigError: ``metadata_damaged``: it is none; a key cannot be opened.
        TrustRefusedError: ``foreign_key``: a root that does not name the key.
    """
    try:
        metadata: Metadata = Metadata.from_bytes(path.read_bytes())  # type: ignore[type-arg]
    except (OSError, RepositoryError) as error:
        raise OperatorConfigError(f"{path} is no metadata: {error}", reason="metadata_damaged") from error
    signed = metadata.signed
    about = [f"{signed.type} version {signed.version}, expires {signed.expires:%Y-%m-%d}"]
    for role, named in sorted(getattr(signed, "roles", {}).items()):
        about.append(f"  {role}: {named.threshold} of {', '.join(sorted(id_[:12] for id_ in named.keyids))}")
    delegations = getattr(signed, "delegations", None)
    for role, delegated in sorted(((delegations.roles or {}) if delegations else {}).items()):
        what = "orders and stops" if role == CONTROL else ", ".join(delegated.paths or [])
        about.append(f"  {role}: {what}: {delegated.threshold} of {', '.join(id_[:12] for id_ in delegated.keyids)}")
    about += [f"  names {target}" for target in sorted(getattr(signed, "targets", {}))]
    if dry_run:
        return Carried(about=about, signatures=len(metadata.signatures))
    for uri in uris:
        public = getattr(signed, "keys", {})
        scheme, _, rest = uri.partition(":")
        named_key = next(
            (key for key in public.values() if key.unrecognized_fields.get("x-outrider-key-uri") == uri), None
        )
        signer = (
            open_file(Path(rest), place.passphrase)
            if scheme == FILE
            else open_signer(uri, place.passphrase, public=named_key)
        )
        if signed.type == "root" and signer.public_key.keyid not in public and not dry_run and signed.version == 1:
            raise TrustRefusedError(f"this root does not name the key {uri}", reason="foreign_key")
        metadata.sign(signer, append=True)
    write_durably(path, metadata.to_bytes())
    return Carried(about=about, signatures=len(metadata.signatures))
