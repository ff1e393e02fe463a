"""What ``[trust]`` may say in ``cloud.toml``. Opens nothing."""

from collections.abc import Callable
from typing import Annotated, Self

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_trust.facts import FILE, auto_role
from outrider_wire.names import Name

Days = Annotated[float, Meta(gt=0, le=365)]


class AutomaticSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the cloud does by itself with the learning rounds of one task: a rollout to the canary group that is signed for it."""

    key: str = ""
    """URI of the key of the task's automatic role; empty: ``file:keys/TASK-auto.pem`` in the repository."""
    soak_s: Annotated[int, Meta(ge=0, le=365 * 86400)] = 7200
    """How long the canary group has the release before the rollout has finished."""
    expires_days: Days = 14.0
    """How long the plan is good for."""


class TrustSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Signed releases. Off while ``repository`` is empty: then assignments are not signed."""

    repository: str = ""
    """The folder that `outrider ota init` made, or a copy of it: ``metadata/``, ``targets/``, and of ``keys/`` the online ones."""
    snapshot_key: str = ""
    """URI of the key that signs snapshots; empty: ``file:keys/snapshot.pem`` in the repository."""
    timestamp_key: str = ""
    """The same of timestamps."""
    control_key: str = ""
    """The same of orders and stops."""
    passphrase_file: str = ""
    """Opens those of them that are encrypted files; a hardware key's PIN."""
    snapshot_days: Days = 14.0
    """How long a snapshot is good for."""
    timestamp_days: Days = 7.0
    """The same of a timestamp: a fleet that sleeps for a weekend must still find it good. It is signed again at half of it."""

    automatic: dict[Name, AutomaticSettings] = {}
    """Tasks whose promoted learning rounds the cloud releases to their canary group; none: it begins nothing by itself."""

    @property
    def on(self) -> bool:
        """Releases are signed here."""
        return bool(self.repository)

    @property
    def days(self) -> dict[str, float]:
        """Life of the online roles."""
        return {"snapshot": self.snapshot_days, "timestamp": self.timestamp_days}

    def key(self, role: str) -> str:
        """URI of an online key."""
        return str(getattr(self, f"{role}_key")) or f"{FILE}:{self.repository}/keys/{role}.pem"

    def automatic_key(self, task: str) -> str:
        """URI of the key of a task's automatic role."""
        return self.automatic[task].key or f"{FILE}:{self.repository}/keys/{auto_role(task)}.pem"

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""

        def key(uri: str) -> str:
            scheme, _, rest = uri.partition(":")
            return f"{FILE}:{anchor(rest)}" if scheme == FILE else uri

        paths = {name: anchor(getattr(self, name)) for name in ("repository", "passphrase_file")}
        keys = {name: key(getattr(self, name)) for name in ("snapshot_key", "timestamp_key", "control_key")}
        automatic = {task: replace(each, key=key(each.key)) for task, each in self.automatic.items()}
        return replace(self, **paths, **keys, automatic=automatic)
