"""Wires a device's updates: configuration in, an updater out. Computes nothing, and starts nothing."""

import asyncio
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from outrider_edge.config import EdgeConfig, takes_unsigned, update_windows
from outrider_edge.loading import Loaded
from outrider_edge.local_api.openapi import agent_version
from outrider_edge.updates.device import DeviceTerms, Held, Updater
from outrider_edge.updates.judging import LocalFacts
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.orders import OrderDesk
from outrider_edge.updates.probation import ProbationTerms
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.updates.waiting import WhenTerms
from outrider_edge.updates.watching import Senses
from outrider_edge.uplink.metadata import UplinkMetadata
from outrider_edge.uplink.uplink import AloneUplink, Uplink
from outrider_trust.sources import MetadataSource
from outrider_wire.errors import OperatorConfigError, UnreachableError

LEDGER_FOLDER = "updates"
METADATA_FOLDER = "metadata"


def updater_of(
    config: EdgeConfig,
    tasks: Sequence[Loaded],
    *,
    uplink: Uplink | AloneUplink,
    ledger: LedgerFile,
    alarm: Callable[[str], bool],
    headroom_c: Callable[[], float | None],
) -> Updater:
    """The updates of a device. To be called on the event loop.

    Raises:
        OperatorConfigError: the root of trust cannot be read.
    """
    terms = _device_terms(config)
    held = Held(ledger=ledger, terms=terms)
    updaters = [
        TaskUpdater(
            start=ready.start,
            runtime=ready.runtime,
            source=uplink,
            load=ready.load,
            selftest=ready.selftest,
            changed=uplink.report,
            terms=_task_terms(config),
            hold=held,
            senses=Senses(
                alarm=_asking(alarm, ready.runtime.task.name),
                headroom_c=headroom_c,
                contact=lambda: uplink.connected or not uplink.enabled,
            ),
        )
        for ready in tasks
    ]
    certificate = Path(config.broker.cert_file) if config.broker.cert_file else None
    reporter = Reporter(
        device=config.device, ledger=ledger, key=lambda: report_key(config.folder / LEDGER_FOLDER, certificate)
    )
    return Updater(
        tasks=updaters,
        ledger=ledger,
        held=held,
        terms=terms,
        reporter=reporter,
        judge=_judge(config, uplink),
        changed=uplink.report,
    )


def hear(updater: Updater, uplink: Uplink | AloneUplink) -> None:
    """Has the updater hear of stops and of newer metadata."""
    if isinstance(uplink, Uplink):
        uplink.on_stop = updater.on_stop
        uplink.on_newer = updater.on_newer


def _judge(config: EdgeConfig, uplink: Uplink | AloneUplink) -> OrderDesk | None:
    if not config.updates.root:
        return None
    try:
        root = Path(config.updates.root).read_bytes()
    except OSError as error:
        raise OperatorConfigError(
            f"updates.root {config.updates.root} cannot be read: {error.strerror}",
            reason="unreadable_file",
            fix="name the root metadata that the device was given when it joined",
        ) from error
    source: MetadataSource = _Nobody()
    if isinstance(uplink, Uplink):
        source = UplinkMetadata(uplink.metadata.ask, asyncio.get_running_loop())
    return OrderDesk(folder=config.folder / METADATA_FOLDER, root=root, source=source)


class _Nobody:
    """`MetadataSource` of a device without a broker."""

    def fetch(self, path: str, most: int) -> bytes:
        raise UnreachableError("this device is alone: no broker is configured", reason="alone")


def _device_terms(config: EdgeConfig) -> DeviceTerms:
    settings = config.updates
    metered = Path(settings.metered_file) if settings.metered_file else None
    return DeviceTerms(
        when=WhenTerms(windows=update_windows(settings)),
        unsigned=takes_unsigned(config),
        local=LocalFacts(
            device=config.device,
            facts={**({"profile": _profile(config)} if _profile(config) else {}), **config.labels},
            agent=agent_version(),
            arch=platform.machine().lower(),
            profile=_profile(config),
            memory_mb=memory_mb(),
        ),
        metered=lambda: metered is not None and is_metered(metered),
    )


def _task_terms(config: EdgeConfig) -> UpdateTerms:
    settings = config.updates
    return UpdateTerms(
        probation_answers=settings.probation_answers,
        probation_s=settings.probation_s,
        probation_least_s=settings.probation_least_s,
        selftest_ms=settings.selftest_ms,
        watch=ProbationTerms(agreement=settings.agreement, slower=settings.slower, memory_mb=settings.memory_mb),
    )


def _profile(config: EdgeConfig) -> str:
    """The name of the device profile; of one from a file, the file's."""
    return Path(config.runtime.profile).stem.lower() if config.runtime.profile else ""


def _asking(alarm: Callable[[str], bool], task: str) -> Callable[[], bool]:
    return lambda: alarm(task)


def is_metered(file: Path) -> bool:
    """Whether the link costs money now, as a script of the network says in a file."""
    try:
        return file.read_text("utf-8", errors="replace")[:16].strip() != "0"
    except OSError:
        return False


def memory_mb() -> int:
    """Of this board, in MB of 2^20 bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (ValueError, OSError):
        return 0
