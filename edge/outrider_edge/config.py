"""What ``edge.toml`` may say, checked before anything starts. Opens no socket, loads no model.

Paths in the file are relative to the file's own folder.
"""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_edge.outbox.policy import Bounds
from outrider_edge.profile import anchored_name, settings_below
from outrider_edge.sources.settings import LocalBrokerSettings, SourceSettings, check_sources
from outrider_edge.webhooks.settings import SinkSettings, check_sinks
from outrider_link.envelope import Tls
from outrider_link.settings import BrokerSettings, is_loopback, read_text
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.joining import is_https
from outrider_wire.manifest import Precision
from outrider_wire.names import NAME_PATTERN, Name
from outrider_wire.profile import OnnxProviders, Providers, ThermalTerms
from outrider_wire.rollout import Facts, WeeklyWindow
from outrider_wire.rollout_text import parse_freeze
from outrider_wire.settings import parse_toml
from outrider_wire.task import Task, parse_task

DEFAULT_PORT = 8713


class ApiSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The local API: whoever reaches it may ask, so that only this machine can."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = DEFAULT_PORT
    """0: any free port."""
    socket: str = ""
    """Path of a Unix socket to serve as well."""


class TaskSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One task, and the bundle that answers it until an update brings another."""

    file: str
    bundle: str
    mode: Literal["live", "shadow"] | None = None
    """Wins over the task's own ``policy.mode``."""
    subtasks: dict[Name, str] = {}
    """Sub-task → bundle of the model that answers it: sent along as facts, for the cloud's strategy ``transfer``."""


class RuntimeSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How models run."""

    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    """Threads within one operator."""
    profile: str = ""
    """Name of a device profile that comes with Outrider, or the path of one; every setting here wins over it."""
    providers: Providers = []
    """What runs models, in order of preference: ONNX Runtime's execution providers, of which one that is not there is left out, and
    said; and the native engines ``tensorrt`` and ``tensorrt_rtx``, which are built in the background and take over. Without one of
    ONNX Runtime's: the one that the bundle names."""
    required: OnnxProviders = []
    """Those of ONNX Runtime's without which the agent does not start."""
    precisions: Annotated[list[Precision], Meta(max_length=8)] = []
    """In order of preference: the first that the bundle has and that may claim its certificate runs; where none may, the first that
    it has. Empty: the bundle's first variant."""
    models_mb: Annotated[int, Meta(ge=1, le=16_777_216)] | None = None
    """Memory for loaded models: the longest unused is let go and loaded again when it is asked. None: no bound."""
    cache_mb: Annotated[int, Meta(ge=0, le=16_777_216)] | None = None
    """Disk for optimised graphs and engines. None: no bound."""
    cache_dir: str = ""
    """Where these are kept; empty: ``cache`` in the data folder."""
    max_batch: Annotated[int, Meta(ge=1, le=8)] = 1
    """Inputs that wait for the same model and may be answered at once, where that was measured to take less time and makes none late."""
    engines: Literal["certified", "always"] = "certified"
    """Whether a native engine may take over from what runs with a certificate that it cannot claim itself."""
    arena: bool = False
    """Keep the memory that the largest batch needed."""
    spinning: bool = False
    """Threads wait busily between operators."""
    io_binding: Literal["auto", "always", "never"] = "auto"
    """Outputs stay on the device until they are asked for; ``auto``: where the first provider is not the processor."""
    decode: Literal["worker", "inline"] = "worker"
    """Where pictures become pixels: in a limited process, so that a hostile file costs no more than itself, for 0.1 to 0.2 ms a picture; or
    in the agent itself, for a device whose pictures are all its own camera's."""


class CloudSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The cloud's HTTP API: a faster way for what is large, and where the device's certificate comes from.

    Without it, everything goes over the broker.
    """

    url: str = ""
    """``https://host[:port]``; plain ``http://`` to this machine only."""
    ca_file: str = ""
    """PEM of who signs its certificate; empty, like the next two: as the broker's."""
    cert_file: str = ""
    key_file: str = ""
    renew: bool = False
    """Whether the certificate of broker.cert_file is renewed here before it runs out: `outrider edge join` says so."""

    def tls(self, broker: BrokerSettings) -> Tls:
        """The files of a protected connection."""
        ca, cert, key = (
            own or shared
            for own, shared in (
                (self.ca_file, broker.ca_file),
                (self.cert_file, broker.cert_file),
                (self.key_file, broker.key_file),
            )
        )
        return Tls(
            ca_file=Path(ca) if ca else None,
            cert_file=Path(cert) if cert else None,
            key_file=Path(key) if key else None,
        )

    def check(self, source: str, broker: BrokerSettings) -> None:
        """What the types cannot say.

        Raises:
            OperatorConfigError: the address is none, holds a secret, or is open to whoever listens on the way; or there is no
                certificate to renew, or nowhere to.
        """
        if self.renew and not (is_https(self.url) and broker.cert_file and broker.ca_file):
            raise OperatorConfigError(
                f"{source}: cloud.renew renews the certificate of broker.cert_file at cloud.url, over https",
                reason="renewal_incomplete",
                fix="set broker.ca_file, broker.cert_file and cloud.url, or leave cloud.renew out",
            )
        if not self.url:
            return
        parts = urlsplit(self.url)
        plain = parts.scheme == "http" and is_loopback(parts.hostname)
        odd = "@" in parts.netloc or parts.query or parts.fragment or not parts.hostname
        if odd or (parts.scheme != "https" and not plain):
            raise OperatorConfigError(
                f"{source}: cloud.url is no address of a cloud's HTTP API",
                reason="invalid_cloud_url",
                fix="write https://host:port without user or query, or leave it out",
            )


class OutboxSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How much may wait for the cloud, and how patiently."""

    max_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024
    max_count: Annotated[int, Meta(ge=1)] = 10_000
    max_age_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 30 * 86_400
    """No escalation is kept longer, whatever its task says."""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024 * 1024
    """With less free on the disk, what comes takes the place of what is held."""
    receipt_timer_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """An escalation without a receipt is offered again after this long."""
    keep_ended: Annotated[int, Meta(ge=0)] = 10_000
    """Ended escalations that can still be looked up by id."""

    @property
    def bounds(self) -> Bounds:
        """What the outbox may hold."""
        return Bounds(
            max_count=self.max_count,
            max_bytes=self.max_bytes,
            max_age_s=self.max_age_s,
            min_free_bytes=self.min_free_bytes,
        )


class UpdateSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which new models may come, when, and how long one is watched before the old one is let go."""

    probation_answers: Annotated[int, Meta(ge=1)] = 200
    """So many answers of a new model end its probation, once ``probation_least_s`` is over; with the time, fewer and fewer do."""
    probation_least_s: Annotated[float, Meta(ge=0)] = 1800.0
    """No probation has less run time, unless ``probation_s`` is less."""
    probation_s: Annotated[float, Meta(gt=0, le=604_800)] = 86_400.0
    """No probation has more run time, however few the answers were; a demonstration sets this to a few seconds."""
    agreement: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    """A new model that surely says what the one before says on fewer inputs than this share is rolled back; 0: not asked."""
    slower: Annotated[float, Meta(ge=0)] = 4.0
    """So is one whose p95 is so many times that of the one before; 0: not asked."""
    memory_mb: Annotated[float, Meta(ge=0)] = 512.0
    """So is one with which the agent has that much more resident; 0: not asked."""
    selftest_ms: Annotated[float, Meta(ge=0)] = 0.0
    """A release of which one inference takes longer in the self-test is refused; 0: any."""
    windows: str = ""
    """When updates may begin, in UTC: ``Sat 02:00-Sat 05:00, Sun 02:00-Sun 05:00``; empty: at any time."""
    metered_file: str = ""
    """A file that is there, and holds anything but ``0``, while the link costs money: then nothing of a release is fetched."""
    unsigned: bool = False
    """Whether releases are taken that nobody signed. Without it they are only where the broker is on this machine, or there is
    none, and no root is set."""
    root: str = ""
    """File with the root metadata of The Update Framework: with it, releases are believed by signed metadata alone."""


class TelemetrySettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How often the device tells how it fares."""

    every_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0


class EdgeConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole of ``edge.toml``."""

    tasks: Annotated[list[TaskSettings], Meta(min_length=1, max_length=64)]
    device: str = ""
    """This device's name on the broker; empty: the host's name."""
    data_dir: str = "outrider-edge"
    audit_key_file: str = ""
    """File with the secret that chooses the audits; empty: ``audit.key`` in the data folder, made when absent."""
    broker: BrokerSettings = BrokerSettings()
    cloud: CloudSettings = CloudSettings()
    api: ApiSettings = ApiSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    outbox: OutboxSettings = OutboxSettings()
    updates: UpdateSettings = UpdateSettings()
    labels: Facts = {}
    """What this device says of itself, and a rollout's groups may ask for: ``site = "berlin"``."""
    telemetry: TelemetrySettings = TelemetrySettings()
    thermal: ThermalTerms = ThermalTerms()
    """When the rate is lowered so that the chip need not throttle; off without a profile."""
    sinks: Annotated[list[SinkSettings], Meta(max_length=16)] = []
    sources: Annotated[list[SourceSettings], Meta(max_length=64)] = []
    local_broker: LocalBrokerSettings = LocalBrokerSettings()

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.data_dir)

    @property
    def cache_folder(self) -> Path:
        """Where optimised graphs and engines are kept."""
        return Path(self.runtime.cache_dir) / "models" if self.runtime.cache_dir else self.folder / "cache"


def load_edge_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> EdgeConfig:
    """Reads and checks a configuration; ``overrides`` (nested like the file) win over the file.

    Raises:
        OperatorConfigError: the file is missing or does not hold what it must; the sentence says where and what instead.
    """
    source, text = (str(path), read_text(path)) if path else ("command line", "")
    folder = path.resolve().parent if path else Path.cwd()
    config = parse_toml(text, EdgeConfig, source, overrides, lambda data: settings_below(data, folder))
    config = _anchored(config, folder)
    if not config.device:
        config = replace(config, device=host_name())
    check(config, source)
    return config


def check(config: EdgeConfig, source: str = "edge.toml") -> None:
    """What the types cannot say.

    Raises:
        OperatorConfigError: a device name that fits no topic, an API open to other machines, an unknown broker address, a
            provider that is required and not wanted.
    """
    if not re.fullmatch(NAME_PATTERN, config.device):
        raise OperatorConfigError(
            f"{source}: device {config.device!r} cannot stand in a topic",
            reason="invalid_device",
            fix="use 1 to 64 of a-z, 0-9 and -, not starting with -",
        )
    if not is_loopback(config.api.host):
        raise OperatorConfigError(
            f"{source}: api.host {config.api.host!r} can be reached from other machines, and no token guards it",
            reason="open_api",
            fix="set api.host to 127.0.0.1, or serve api.socket",
        )
    if extra := [name for name in config.runtime.required if name not in config.runtime.providers]:
        raise OperatorConfigError(
            f"{source}: runtime.required names {extra[0]}, which runtime.providers does not",
            reason="invalid_value",
            fix="add it there",
        )
    config.broker.check(source)
    config.cloud.check(source, config.broker)
    check_sinks(config.sinks, source)
    check_sources(config.sources, config.local_broker, source)
    _check_updates(config, source)


def update_windows(settings: UpdateSettings) -> tuple[WeeklyWindow, ...]:
    """When updates may begin; none: at any time.

    Raises:
        CallerInputError: a window is none.
    """
    return tuple(parse_freeze(settings.windows))


def takes_unsigned(config: EdgeConfig) -> bool:
    """Whether releases that nobody signed are taken: never beside a root of trust."""
    here = not config.broker.url or is_loopback(urlsplit(config.broker.url).hostname)
    return not config.updates.root and (config.updates.unsigned or here)


def _check_updates(config: EdgeConfig, source: str) -> None:
    if config.updates.root and config.updates.unsigned:
        raise OperatorConfigError(
            f"{source}: updates.root and updates.unsigned contradict each other",
            reason="invalid_value",
            fix="leave updates.unsigned out: with a root, nothing unsigned is taken",
        )
    try:
        update_windows(config.updates)
    except CallerInputError as error:
        raise OperatorConfigError(
            f"{source}: updates.windows: {error.what}", reason="invalid_value", fix=error.fix
        ) from error


def read_task(settings: TaskSettings) -> Task:
    """The task that a file describes, in the mode that the configuration asks for.

    Raises:
        OperatorConfigError: the file is missing or is not a task.
    """
    task = parse_task(read_text(Path(settings.file)), settings.file)
    return replace(task, policy=replace(task.policy, mode=settings.mode)) if settings.mode else task


def host_name() -> str:
    """This machine's name, within the grammar of devices."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")
    return name[:64] or "device"


def _anchored(config: EdgeConfig, folder: Path) -> EdgeConfig:
    """The same with every path absolute."""

    def anchor(path: str) -> str:
        return str(folder / path) if path else ""

    return replace(
        config,
        data_dir=anchor(config.data_dir),
        audit_key_file=anchor(config.audit_key_file),
        tasks=[
            replace(
                entry,
                file=anchor(entry.file),
                bundle=anchor(entry.bundle),
                subtasks={name: anchor(folder) for name, folder in entry.subtasks.items()},
            )
            for entry in config.tasks
        ],
        api=replace(config.api, socket=anchor(config.api.socket)),
        runtime=replace(
            config.runtime,
            profile=anchored_name(config.runtime.profile, folder),
            cache_dir=anchor(config.runtime.cache_dir),
        ),
        broker=config.broker.anchored(anchor),
        updates=replace(
            config.updates, root=anchor(config.updates.root), metered_file=anchor(config.updates.metered_file)
        ),
        sinks=[sink.anchored(anchor) for sink in config.sinks],
        sources=[each.anchored(anchor) for each in config.sources],
        local_broker=config.local_broker.anchored(anchor),
        cloud=replace(
            config.cloud,
            **{name: anchor(getattr(config.cloud, name)) for name in ("ca_file", "cert_file", "key_file")},
        ),
    )
