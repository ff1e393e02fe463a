"""What a device tells of itself: presence, telemetry and slot reports, as messages. Publishes nothing itself."""

from collections.abc import Iterator, Mapping

from msgspec import UNSET
from msgspec.structs import asdict

from outrider_edge.ports import FiguresPort, LedgerPort
from outrider_wire.limits import SERVED_VERSIONS
from outrider_wire.messages import Presence, Telemetry


def online(device: str, boot_id: str, *, agent: str, releases: Mapping[str, str], facts: Mapping[str, str]) -> Presence:
    """The device is here, with what it says of itself."""
    return Presence(
        device=device,
        online=True,
        boot_id=boot_id,
        agent=agent,
        wire=list(SERVED_VERSIONS),
        releases=dict(releases),
        capabilities=dict(facts),
    )


def offline(device: str, boot_id: str) -> Presence:
    """The device is gone: its last will, and its own word when it stops."""
    return Presence(device=device, online=False, boot_id=boot_id)


def telemetry(
    device: str, boot_id: str, *, figures: FiguresPort, ledger: LedgerPort, uptime_s: float
) -> Iterator[Telemetry]:
    """One message a task."""
    for task in figures.figures():
        yield Telemetry(
            device=device,
            boot_id=boot_id,
            task=task.task,
            uptime_s=uptime_s,
            account=asdict(ledger.account(task.task)),
            confidence=task.confidence,
            edge_ms=task.edge_ms,
            cloud_ms=task.cloud_ms,
            monitor=UNSET if task.monitor is None else task.monitor,
        )
