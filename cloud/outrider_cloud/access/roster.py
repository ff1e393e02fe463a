"""Who is refused now, in memory: asked on every message and every request. Knows why nobody."""

from collections.abc import Iterable


class Roster:
    """Revoked devices and certificates. Empty where no device is let in from here."""

    def __init__(self) -> None:
        self._devices: frozenset[str] = frozenset()
        self._serials: frozenset[str] = frozenset()

    def replace(self, *, devices: Iterable[str], serials: Iterable[str]) -> None:
        """From now on these are refused, and nobody else."""
        self._devices, self._serials = frozenset(devices), frozenset(serials)

    def refuses(self, device: str, serial: str = "") -> bool:
        """Whether nothing of this device, or nothing said with this certificate, is taken."""
        return device in self._devices or serial in self._serials
