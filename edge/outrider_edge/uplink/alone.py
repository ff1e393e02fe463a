"""The uplink of a device without a broker: the whole surface of the real one, and nobody at the other end."""

from pathlib import Path

from outrider_edge.ports import MaySpare, OnAside, OnFinal, OnPulled, OutboxEntry
from outrider_wire.errors import RuleRefusalError, UnreachableError

_FIX = "set [broker] url in edge.toml"


class AloneUplink:
    """`outrider_edge.ports.UplinkPort` and `outrider_edge.updates.fetching.ReleaseSource`: never connects, refuses what it is given."""

    enabled = False
    connected = False
    bytes_up = 0

    def ignored(self) -> dict[str, int]:
        """Nothing comes."""
        return {}

    def listen(self, on_final: OnFinal) -> None:
        """There will be no outcomes."""

    def listen_aside(self, on_aside: OnAside) -> None:
        """There will be no answers."""

    def spare_when(self, may_spare: MaySpare) -> None:
        """Nothing will be sent."""

    def listen_pulled(self, on_pulled: OnPulled) -> None:
        """Nothing will be pulled."""

    def attach(self, updates: object) -> None:
        """Nobody will desire anything."""

    async def start(self) -> None:
        """There is nothing to connect to."""

    async def stop(self) -> None:
        """There is nothing to leave."""

    def report(self) -> None:
        """There is nobody to tell."""

    async def escalate(self, entry: OutboxEntry) -> None:
        """Raises `RuleRefusalError`: there is nobody to ask."""
        raise RuleRefusalError("this device is alone: no broker is configured", reason="alone", fix=_FIX)

    async def retry(self, id_: str = "") -> int:
        """Raises `RuleRefusalError`: there is nobody to ask."""
        raise RuleRefusalError("this device is alone: no broker is configured", reason="alone", fix=_FIX)

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        """Raises `UnreachableError`: there is nobody to ask."""
        raise UnreachableError("this device is alone: no broker is configured", reason="alone", fix=_FIX)

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """Raises `UnreachableError`: there is nobody to ask."""
        raise UnreachableError("this device is alone: no broker is configured", reason="alone", fix=_FIX)
