"""What can be wrong with a machine, check by check, each with the way out in words. Changes nothing; prints nothing."""

import asyncio
import contextlib
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from outrider.doctor_access import certificates, handshake, production
from outrider.doctor_device import profile, provider, queues, slots
from outrider.doctor_findings import Finding, Level, Subject
from outrider.doctor_sources import sources
from outrider.extras import EXTRAS, how_to_install, installed
from outrider.transport import Transport
from outrider_wire.errors import OutriderError

LOW_BYTES = 1_000_000_000
SCARCE_BYTES = 100_000_000
_BROKER_WITHIN_S = 3.0

Check = Callable[[Subject], Iterator[Finding]]


def examine(files: list[Path], *, production: bool = False) -> list[Finding]:
    """Every check of the table, on this machine and these configuration files; ``production`` complains of what a lab may do."""
    subject = _read(files)
    subject.production = production
    return [finding for check in CHECKS for finding in check(subject)]


def _read(files: list[Path]) -> Subject:
    from outrider import settings_files

    found: dict[str, Any] = {}
    faults: list[Finding] = []
    for file in files:
        try:
            kind = settings_files.kind_of(file)
            found[kind] = settings_files.load(kind, file)
            faults.append(Finding(check="configuration", level="ok", what=f"{file} is a valid {kind} file"))
        except OutriderError as error:
            faults.append(Finding(check="configuration", level="bad", what=error.what, fix=error.fix))
    return Subject(edge=found.get("edge"), cloud=found.get("cloud"), faults=faults)


def python(_: Subject) -> Iterator[Finding]:
    """The interpreter."""
    version = platform.python_version()
    if sys.maxsize < 2**32:
        yield Finding(check="python", level="bad", what=f"Python {version} of 32 bits", fix="use a 64-bit build")
    else:
        yield Finding(check="python", level="ok", what=f"{version} on {platform.system()} {platform.machine()}")


def runtime(_: Subject) -> Iterator[Finding]:
    """Exactly one ONNX Runtime, and what it can run on."""
    from outrider_engine.session import installed_runtimes, load_runtime

    names = installed_runtimes()
    try:
        providers = load_runtime().get_available_providers()
    except OutriderError as error:
        yield Finding(check="onnx runtime", level="bad", what=error.what, fix=error.fix)
        return
    known = ", ".join(each.removesuffix("ExecutionProvider") for each in providers)
    yield Finding(check="onnx runtime", level="ok", what=f"{', '.join(names) or 'onnxruntime'}, runs on {known}")


def extras(_: Subject) -> Iterator[Finding]:
    """What is installed beside the base."""
    there = [extra for extra in EXTRAS if installed(extra)]
    absent = [extra for extra in EXTRAS if extra not in there]
    what = f"installed: {', '.join(there) or 'none'}"
    if absent:
        what += f"; not installed: {', '.join(absent)} (where one is needed: {how_to_install(absent[0])})"
    yield Finding(check="extras", level="ok", what=what)


def configuration(subject: Subject) -> Iterator[Finding]:
    """The configuration files."""
    if not subject.faults:
        yield Finding(
            check="configuration",
            level="warning",
            what="no edge.toml or cloud.toml here",
            fix="name one with --config, or try: outrider edge run --demo",
        )
    yield from subject.faults


def tasks(subject: Subject) -> Iterator[Finding]:
    """Every task of the device, and the bundle that answers it."""
    from outrider.settings_files import read_task
    from outrider_engine.bundle import open_bundle

    for entry in subject.edge.tasks if subject.edge else ():
        try:
            task, bundle = read_task(Path(entry.file)), open_bundle(Path(entry.bundle))
        except OutriderError as error:
            yield Finding(check="task", level="bad", what=error.what, fix=error.fix)
            continue
        fault = bundle.manifest.certificate_fault(bundle.variant())
        what = f"{task.name} is answered by {bundle.manifest.version} ({bundle.digest[:12]}…)"
        if bundle.manifest.task != task.name or bundle.manifest.labels != task.labels:
            fix = "build the bundle from this task file"
            yield Finding(check="task", level="bad", what=f"{what}, which was built for another task", fix=fix)
        elif fault:
            fix = "everything of it escalates; certify a bundle with: outrider export run"
            yield Finding(check="task", level="warning", what=f"{what}, without a certificate: {fault}", fix=fix)
        else:
            yield Finding(check="task", level="ok", what=what)


def leaving(subject: Subject) -> Iterator[Finding]:
    """What leaves the device, task by task, in words."""
    from outrider.settings_files import read_task
    from outrider_wire.leaving import words

    for entry in subject.edge.tasks if subject.edge else ():
        try:
            task = read_task(Path(entry.file))
        except OutriderError:  # said where the tasks are looked at
            continue
        yield Finding(check="leaves the device", level="ok", what=f"{task.name}: {'; '.join(words(task))}")


def broker(subject: Subject) -> Iterator[Finding]:
    """Whether the broker takes a connection."""
    brokers = [each.broker for each in (subject.edge, subject.cloud) if each is not None and each.broker.url]
    once = {(each.url, each.cert_file): each for each in brokers}
    if subject.edge is not None and not subject.edge.broker.url:
        fix = "set broker.url to send what the device is unsure of"
        yield Finding(check="broker", level="warning", what="none configured: this device is alone", fix=fix)
    for (url, _), settings in once.items():
        try:
            asyncio.run(handshake(url, settings.tls) if url.startswith("mqtts://") else _connect(url))
        except OutriderError as error:
            yield Finding(check="broker", level="bad", what=error.what, fix=error.fix)
        else:
            yield Finding(
                check="broker",
                level="ok",
                what=f"{url} accepts {'this certificate' if settings.cert_file else 'connections'}",
            )


async def _connect(url: str) -> None:
    """Reaches the broker's port; who may publish what is only known to a session with its own credentials."""
    from urllib.parse import urlsplit

    from outrider_wire.errors import UnreachableError

    where = urlsplit(url)
    port = where.port or (8883 if where.scheme == "mqtts" else 1883)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(where.hostname, port), _BROKER_WITHIN_S)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or f"no reply within {_BROKER_WITHIN_S:g} s"
        raise UnreachableError(
            f"the broker at {url} does not answer ({why})",
            reason="broker_unreachable",
            fix="start it (outrider broker run), or correct broker.url",
        ) from error
    writer.close()


def ports(subject: Subject) -> Iterator[Finding]:
    """Whether the ports of the HTTP APIs are free, or held by what should hold them."""
    from outrider_edge.config import ApiSettings

    api = subject.edge.api if subject.edge else ApiSettings()
    yield _port("port of the agent", api.host, api.port, "api.port in edge.toml")
    if subject.cloud:
        api = subject.cloud.api
        yield _port("port of the cloud", api.host, api.port, "api.port in cloud.toml", cloud=api)


def _port(check: str, host: str, port: int, setting: str, *, cloud: Any = None) -> Finding:
    if port == 0:
        return Finding(check=check, level="ok", what="any free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if _is_ours(host, port, cloud):
                return Finding(check=check, level="ok", what=f"{port} is served by a running Outrider")
            what = f"{host}:{port} cannot be used: {error.strerror}"
            return Finding(check=check, level="bad", what=what, fix=f"stop what holds it, or change {setting}")
    return Finding(check=check, level="ok", what=f"{port} is free")


def _is_ours(host: str, port: int, cloud: Any = None) -> bool:
    shown = f"[{host}]" if ":" in host else host
    address, ca_file = f"http://{shown}:{port}", None
    if cloud is not None and cloud.cert_file:
        address = cloud.public_url or f"https://{shown}:{port}"
        ca_file = Path(cloud.client_ca_file) if cloud.client_ca_file else None
    try:
        probe = Transport(address, what="a server", start="", timeout_s=2.0, ca_file=ca_file)
        with contextlib.closing(probe):
            return probe.request("GET", "/health/live").status == 200
    except OutriderError:
        return False


def disk(subject: Subject) -> Iterator[Finding]:
    """Whether the data folders can be written, and hold something more."""
    for config in (subject.edge, subject.cloud):
        if config is not None:
            yield _folder(config.folder)


def _folder(folder: Path) -> Finding:
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fix = "change its owner, or set data_dir to another folder"
        return Finding(check="disk", level="bad", what=f"{folder} cannot be written", fix=fix)
    free = shutil.disk_usage(place).free
    level: Level = "ok" if free >= LOW_BYTES else "warning" if free >= SCARCE_BYTES else "bad"
    fix = "" if level == "ok" else "free some, or set data_dir to another disk"
    return Finding(check="disk", level=level, what=f"{folder}: {free / 1e9:.1f} GB free", fix=fix)


def outbox(subject: Subject) -> Iterator[Finding]:
    """How full the device's outbox is, and what was wrong with it."""
    from outrider.outbox_check import examine_outbox

    if subject.edge is not None:
        yield from examine_outbox(subject.edge)


def clock(_: Subject) -> Iterator[Finding]:
    """The clock cannot be right when it is before this very installation was written, or far in the future."""
    written = Path(__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if time.time() < written - 86_400 or time.gmtime().tm_year >= 2100:
        fix = "set the time (timedatectl set-ntp true); TLS certificates and logs depend on it"
        yield Finding(check="clock", level="bad", what=f"it says {shown}", fix=fix)
    else:
        yield Finding(check="clock", level="ok", what=shown)


CHECKS: tuple[Check, ...] = (
    python,
    runtime,
    extras,
    clock,
    configuration,
    profile,
    tasks,
    provider,
    slots,
    sources,
    leaving,
    disk,
    outbox,
    ports,
    broker,
    certificates,
    production,
    queues,
)
"""What is looked at, in the order in which it is said."""
