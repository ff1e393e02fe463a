"""Makes what keeps and signs metadata, as the configuration asks for it. Wires, and decides nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer  # type: ignore[attr-defined]

from outrider_cloud.background import Background
from outrider_cloud.intake.replies import Publish
from outrider_cloud.trust.automatic import AutomaticRole
from outrider_cloud.trust.control import Control
from outrider_cloud.trust.online import OnlineRoles
from outrider_cloud.trust.plans import SignedPlans
from outrider_cloud.trust.service import Trust
from outrider_cloud.trust.settings import TrustSettings
from outrider_link.settings import read_secret
from outrider_trust.facts import CONTROL, FILE, auto_role
from outrider_trust.keys import key_named, open_signer
from outrider_trust.repository import ONLINE, Repository
from outrider_wire.errors import OperatorConfigError
from outrider_wire.topics import Topics


def open_trust(
    settings: TrustSettings,
    *,
    folder: Path,
    find_blob: Callable[[str], Path | None],
    publish: Publish,
    topics: Topics,
    background: Background,
) -> Trust:
    """Whoever serves signed metadata. Blocks: keys are opened, and one may be far away.

    Raises:
        OperatorConfigError, OperatorSetupError, UnreachableError: the repository or a key cannot be used.
        TrustRefusedError: the repository contradicts itself.
    """
    if not settings.on:
        return Trust(publish=publish, topics=topics, background=background)
    repository = Repository(Path(settings.repository))
    keys = {role: settings.key(role) for role in (*ONLINE, CONTROL)}
    keys |= {auto_role(task): settings.automatic_key(task) for task in settings.automatic}
    signers = {role: _signer(settings, repository, role, uri) for role, uri in keys.items()}
    online = OnlineRoles(
        repository=repository,
        signers={role: signers[role] for role in ONLINE},
        find_blob=find_blob,
        days=settings.days,
    )
    online.check()
    online.tend()
    automatic = {
        task: AutomaticRole(task=task, repository=repository, signer=signers[auto_role(task)])
        for task in settings.automatic
    }
    for role in automatic.values():
        role.check()
    return Trust(
        publish=publish,
        topics=topics,
        background=background,
        online=online,
        control=Control(repository=repository, signer=signers[CONTROL]),
        plans=SignedPlans(repository=repository, folder=folder / "trusted"),
        automatic=automatic,
    )


def _signer(settings: TrustSettings, repository: Repository, role: str, uri: str) -> Signer:

    def passphrase(what: str) -> bytes:
        if not settings.passphrase_file:
            raise OperatorConfigError(
                f"the key {what} is encrypted", reason="key_locked", fix="set trust.passphrase_file"
            )
        return read_secret(Path(settings.passphrase_file), "passphrase of a key").encode()

    public = None if uri.startswith(f"{FILE}:") else _named(repository, role, uri)
    return open_signer(uri, passphrase, public=public)


def _named(repository: Repository, role: str, uri: str) -> Any:
    """The public key that the metadata has of a URI."""
    if role not in ONLINE:
        delegations = repository.read("targets").signed.delegations
        keys = delegations.keys.values() if delegations else ()
    else:
        keys = repository.read("root").signed.keys.values()
    return key_named(keys, uri)
