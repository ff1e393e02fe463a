"""A release engineer's folder: the repository, the keys that are here, and what is waiting for signatures.

::

    metadata/ targets/ proposed/   as `outrider_trust.repository`
    keys/                          private keys that are here, and public ones (.pub.json) of those that are not
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer  # type: ignore[attr-defined]

from outrider_link.files import make_folder, write_durably
from outrider_trust.facts import FILE
from outrider_trust.keys import Passphrase, key_named, open_file, open_signer, public_key
from outrider_trust.repository import KINDS, ONLINE, Repository
from outrider_wire.errors import OperatorConfigError, TrustRefusedError

PUBLIC = ".pub.json"


class Workplace:
    """One folder. ``passphrase`` opens encrypted keys."""

    def __init__(self, folder: Path, passphrase: Passphrase, *, clock: Callable[[], float] | None = None) -> None:
        self.repository = Repository(folder, clock) if clock else Repository(folder)
        self.keys = folder / "keys"
        self.passphrase = passphrase

    def public(self, spec: str) -> Key:
        """A public key: of a ``.pub.json`` file that another machine made, or of a key's URI.

        Raises:
            OperatorConfigError, OperatorSetupError, UnreachableError: there is none.
        """
        if spec.endswith(PUBLIC):
            return read_public(Path(spec))
        return public_key(spec, self.passphrase)

    def signer(self, uri: str) -> Signer:
        """Opens a private key; errors as `outrider_trust.keys.open_signer`."""
        public = None if uri.startswith(f"{FILE}:") else self._named(uri)
        return open_signer(uri, self.passphrase, public=public)

    def sign(self, role: str, uris: list[str]) -> int:
        """Signs what is proposed of a role; how many signatures it still lacks.

        Raises:
            OperatorConfigError: ``nothing_proposed``; a key cannot be opened.
            TrustRefusedError: ``foreign_key``: the role is not one that the key signs.
        """
        return self.propose_signed(role, self.proposed(role), uris)

    def propose_signed(self, role: str, metadata: Any, uris: Sequence[str]) -> int:
        """The same of a version that is in hand. A key that cannot sign leaves nothing proposed. Errors as `sign`."""
        named = self.may_sign(role, metadata)
        signers = [(uri, self.signer(uri)) for uri in uris]
        for uri, signer in signers:
            if signer.public_key.keyid not in named:
                raise TrustRefusedError(
                    f"the key {uri} is not one of {role}",
                    reason="foreign_key",
                    fix="see `outrider ota keys ls`, or add it to the role first",
                )
        self.repository.sign(role, metadata, [signer for _, signer in signers])
        self.repository.propose(role, metadata)
        return self.lacking(role, metadata)

    def lacking(self, role: str, metadata: Any) -> int:
        """Signatures that it still needs, of whoever will vouch for it once all that is proposed is published."""
        owner = self._owner(role)
        waiting = self.repository.pending(owner) if owner != role else None
        return self.repository.lacking(role, metadata, delegator=waiting.signed if waiting else None)

    def proposed(self, role: str) -> Any:
        """What waits for signatures.

        Raises:
            OperatorConfigError: ``nothing_proposed``.
        """
        metadata = self.repository.pending(role)
        if metadata is None:
            raise OperatorConfigError(
                f"nothing of {role} waits for signatures", reason="nothing_proposed", fix="see `outrider ota keys ls`"
            )
        return metadata

    def discard(self, role: str) -> None:
        """Forgets what is proposed of a role; errors as `proposed`."""
        self.proposed(role)
        (self.repository.proposed / f"{role}.json").unlink()

    def waiting(self) -> dict[str, int]:
        """Every role that waits, with the signatures that it lacks; in the order in which they are published."""
        names = {path.stem for path in self.repository.proposed.glob("*.json")}
        ordered = [*(name for name in ("root", "targets") if name in names), *sorted(names - KINDS.keys())]
        return {role: self.lacking(role, self.proposed(role)) for role in ordered}

    def publish(self) -> list[str]:
        """Publishes whatever has all its signatures, in its order, and signs the online roles where their keys are here."""
        done: list[str] = []
        for role, lacking in self.waiting().items():
            owner = self._owner(role)
            if lacking or (owner != role and self.repository.pending(owner)):
                continue
            self.repository.publish(role, self.proposed(role))
            done.append(role)
        if done and self.online_here():
            self.sign_online()
            done += ONLINE
        return done

    def online_here(self) -> bool:
        """Whether the keys of snapshot and timestamp are files here."""
        return all((self.keys / f"{role}.pem").exists() for role in ONLINE)

    def sign_online(self) -> None:
        """A new snapshot and timestamp; errors as `signer`."""
        signers = {role: [open_file(self.keys / f"{role}.pem", self.passphrase)] for role in ONLINE}
        self.repository.snapshot(signers)

    def _owner(self, role: str) -> str:
        return "root" if role in KINDS else "targets"

    def may_sign(self, role: str, metadata: Any) -> set[str]:
        """Ids of the keys whose signature on that version of a role counts."""
        if role == "root":
            old = self.repository.read("root").signed if self.repository.version("root") else metadata.signed
            return {*old.roles["root"].keyids, *metadata.signed.roles["root"].keyids}
        owner = self._owner(role)
        signed = (self.repository.pending(owner) or self.repository.read(owner)).signed
        roles = signed.roles if owner == "root" else (signed.delegations.roles if signed.delegations else {})
        return set(roles[role].keyids) if role in roles else set()

    def _named(self, uri: str) -> Key | None:
        for owner in ("root", "targets"):
            found = self.repository.pending(owner) or (
                self.repository.read(owner) if self.repository.version(owner) else None
            )
            if found is None:
                continue
            where = found.signed if owner == "root" else found.signed.delegations
            if where and (key := key_named(where.keys.values(), uri)) is not None:
                return key
        return None


def write_public(path: Path, key: Key) -> None:
    """Puts a public key into a file that can be carried to whoever makes the root."""
    make_folder(path.parent)
    write_durably(path, json.dumps({"keyid": key.keyid, **key.to_dict()}, indent=1).encode())


def read_public(path: Path) -> Key:
    """The key of such a file.

    Raises:
        OperatorConfigError: ``key_unreadable``.
    """
    try:
        said = json.loads(path.read_bytes())
        return Key.from_dict(said.pop("keyid"), said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OperatorConfigError(f"{path} is no public key: {error}", reason="key_unreadable") from error
