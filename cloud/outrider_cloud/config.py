"""What ``cloud.toml`` may say, checked before anything starts. Opens no socket, loads no model.

Paths in the file are relative to the file's own folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from outrider_cloud.access.settings import AccessSettings, TlsServerSettings
from outrider_cloud.access.settings import check as check_access
from outrider_cloud.answering.grades import Grade
from outrider_cloud.answering.strategies import DEFAULT_LAMBDA, MAX_LAMBDA, Terms
from outrider_cloud.intake.admission import Limits
from outrider_cloud.store.retention import Retention
from outrider_cloud.trust.settings import TrustSettings
from outrider_link.settings import BrokerSettings, is_loopback, read_text
from outrider_wire.errors import OperatorConfigError
from outrider_wire.names import NAME_PATTERN, Name
from outrider_wire.roles import DEFAULT_SHARES, Shares
from outrider_wire.settings import parse_toml
from outrider_wire.task import OpenRate, Task, parse_task
from outrider_wire.topics import RELEASES, WORKERS

DEFAULT_PORT = 8780
_LARGE = re.compile(r"onnx:.+|transformers:.+|openai:https?://[^\s#]+#\S+|zero:(uniform|echo)")
_FOLDERS = ("onnx", "transformers")
"""Kinds of large model that are named by a folder."""
_PROMPTLESS = ("onnx:", "zero:")
"""Kinds of large model that cannot be told anything beside the input."""


class CloudBrokerSettings(BrokerSettings, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where the broker is, and who we are to it."""

    url: str = "mqtt://127.0.0.1:1883"
    group: Name = WORKERS
    """Workers of one group share the escalations between them."""


class ApiSettings(TlsServerSettings, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The HTTP API."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = DEFAULT_PORT
    """0: any free port."""
    token_file: str = ""
    """File that holds the bearer token; needed on any host but loopback."""


class AskingSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How a language model is asked, and what it costs."""

    api_key_env: Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """``openai``: name of the environment variable that holds the API key; empty: the server asks for none."""
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30.0
    """``openai``: for one request."""
    retries: Annotated[int, Meta(ge=0, le=10)] = 2
    """``openai``: on 429, 5xx and a connection that fails, before the input is put off."""
    at_once: Annotated[int, Meta(ge=1, le=256)] = 8
    """``openai``: requests under way at the same time."""
    price_in: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """Money for a million tokens of prompt."""
    price_out: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """Money for a million tokens of answer."""
    prior: Literal["content-free", "batch-mean", "none"] = "content-free"
    """``transformers``: what a causal model's label scores are measured against: what it says of no input, or of the last ones."""


class TaskSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One task, the large model that answers it, and how the two models are combined."""

    file: str
    large: str
    """``onnx:DIR`` (a bundle), ``transformers:DIR`` (a checkpoint), ``openai:URL#MODEL`` (any compatible server), or
    ``zero:uniform`` / ``zero:echo`` (costs nothing: for benchmarks)."""
    strategy: Literal["shunt", "soft-prune", "hard-prune", "transfer"] = "soft-prune"
    strength: Annotated[float, Meta(ge=0.0, le=MAX_LAMBDA)] = field(name="lambda", default=DEFAULT_LAMBDA)
    """λ of ``soft-prune``. Fit it on tuning data; the default is a cautious guess, see `outrider_cloud.answering.strategies`."""
    prune_in: Literal["product", "prompt"] = "product"
    """Where ``soft-prune`` puts the small model's distribution: multiplied in, or told to a language model."""
    alpha: OpenRate = 0.1
    """``hard-prune``: tolerated share of inputs whose true label is not asked about; `outrider cloud check-model` fits ``keep`` to it."""
    keep: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    """``hard-prune``: least probability by the small model that makes a label a candidate, fitted on tuning data."""
    fuse_with: str = ""
    """Bundle of the small model whose distribution is used in place of the device's: the first one's, across updates."""
    grades: Annotated[list[Grade], Meta(max_length=32)] = []
    """Temperature of the large model by payload; the first that fits."""
    asking: AskingSettings = AskingSettings()
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    """Threads of the large model."""

    @property
    def terms(self) -> Terms:
        """What the strategy computes with."""
        return Terms(strength=self.strength, keep=self.keep or 0.0, prune_in=self.prune_in)


class BatchSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How requests gather before the large model is asked."""

    max_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    max_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] = 2.0
    """How long a batch that is not full waits for more; a lone request is not held up."""
    queue_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """Escalations admitted and unanswered, a task; one more is refused as busy."""
    queue_max_bytes: Annotated[int, Meta(ge=1)] = 512 * 1024 * 1024
    """The same bound on the bytes of their parts."""
    retry_after_s: Annotated[float, Meta(gt=0, le=3600)] = 2.0
    """What a busy refusal asks the device to wait at least, a quarter more or less; it grows with the queue."""


class DeviceSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What one device may make the cloud carry."""

    serve_bytes_per_s: Annotated[int, Meta(ge=1024)] = 8 * 1024 * 1024
    """Of releases, over the broker and HTTP together."""
    upload_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024 * 1024
    """What it may have put over HTTP that no input refers to yet."""


class StoreSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The durable store."""

    url: str = ""
    """``sqlite:///PATH``; empty: ``cloud.db`` in the data folder. Or ``postgresql://USER@HOST:PORT/NAME``, for workers on several
    machines, which then share the data folder too."""
    password_file: str = ""
    """File that holds the server's password; empty: the environment's ``PGPASSWORD``, if it asks for one."""


class RoleSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How an example's group becomes its data role."""

    key_file: str = ""
    """File with the secret of the keyed hash; empty: ``roles.key`` in the data folder, made when absent."""
    shares: Shares = DEFAULT_SHARES


class CloudConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole of ``cloud.toml``."""

    tasks: Annotated[list[TaskSettings], Meta(min_length=1, max_length=64)]
    data_dir: str = "outrider-cloud"
    worker: str = ""
    """This process's name among those that share the store; empty: the host's name."""
    lease_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """How long a claim stands when its worker falls silent; another worker then takes the input over."""
    broker: CloudBrokerSettings = CloudBrokerSettings()
    api: ApiSettings = ApiSettings()
    access: AccessSettings = AccessSettings()
    batch: BatchSettings = BatchSettings()
    limits: Limits = Limits()
    retention: Retention = Retention()
    devices: DeviceSettings = DeviceSettings()
    store: StoreSettings = StoreSettings()
    roles: RoleSettings = RoleSettings()
    trust: TrustSettings = TrustSettings()

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.data_dir)


def load_cloud_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> CloudConfig:
    """Reads and checks a configuration; ``overrides`` (nested like the file) win over the file.

    Raises:
        OperatorConfigError: the file is missing or does not hold what it must; the sentence says where and what instead.
    """
    source, text = (str(path), read_text(path)) if path else ("command line", "")
    config = parse_toml(text, CloudConfig, source, overrides)
    config = _anchored(config, path.resolve().parent if path else Path.cwd())
    check(config, source)
    return config


def check(config: CloudConfig, source: str = "cloud.toml") -> None:
    """What the types cannot say.

    Raises:
        OperatorConfigError: an open host without a token, a large model that is none or does not go with its strategy, a
            store that is none or whose address holds a secret.
    """
    if not is_loopback(config.api.host) and not config.api.token_file:
        raise OperatorConfigError(
            f"{source}: api.host {config.api.host!r} can be reached from other machines and no token guards it",
            reason="open_without_token",
            fix="set api.token_file, or api.host to 127.0.0.1",
        )
    if config.worker and (config.worker == RELEASES or not re.fullmatch(NAME_PATTERN, config.worker)):
        raise OperatorConfigError(
            f"{source}: worker {config.worker!r} cannot be a worker's name",
            reason="invalid_value",
            fix=f"use 1 to 64 of a-z 0-9 -, and not {RELEASES!r}",
        )
    config.broker.check(source)
    check_access(config.access, config.api, config.broker.url, source)
    for entry in config.tasks:
        _check_task(entry, source)
    _check_store(config.store.url, source)
    if config.trust.automatic and not config.trust.on:
        raise OperatorConfigError(
            f"{source}: trust.automatic releases what learning rounds promote, and nothing is signed here",
            reason="automatic_unsigned",
            fix="set trust.repository: outrider ota init --automatic",
        )


def _check_store(url: str, source: str) -> None:
    """An address shows in logs and errors, so that it must hold no secret; nor does this refusal repeat it.

    Raises:
        OperatorConfigError: it is none, or holds a password.
    """
    if not url or url.startswith("sqlite:///"):
        return
    parts = urlsplit(url)
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise OperatorConfigError(
            f"{source}: store.url holds a password",
            reason="secret_in_address",
            fix="put it into a file of its own, and name that as store.password_file",
        )
    if parts.scheme != "postgresql" or not parts.path.strip("/"):
        raise OperatorConfigError(
            f"{source}: store.url {url!r} names no database",
            reason="unknown_store",
            fix='write "sqlite:///PATH" or "postgresql://USER@HOST:PORT/NAME", or leave it out',
        )


def _check_task(entry: TaskSettings, source: str) -> None:
    """What one task's large model and strategy ask of each other.

    Raises:
        OperatorConfigError: an unknown kind of large model or one whose address holds a secret, a strategy that it cannot
            follow or that was not fitted.
    """
    if not _LARGE.fullmatch(entry.large):
        raise OperatorConfigError(
            f"{source}: large = {entry.large!r} names no large model",
            reason="unknown_large_model",
            fix='write large = "onnx:DIR" with the folder of an expert bundle, "transformers:DIR" or "openai:URL#MODEL"',
        )
    _check_address(entry.large, source)
    if entry.prune_in == "prompt" and entry.large.startswith(_PROMPTLESS):
        raise OperatorConfigError(
            f'{source}: prune_in = "prompt" and {entry.large!r} reads no prompt',
            reason="no_prompt",
            fix="leave prune_in out, so that the distributions are multiplied, or name a language model as large",
        )
    if entry.strategy == "hard-prune" and entry.keep is None:
        raise OperatorConfigError(
            f"{source}: strategy hard-prune needs keep, and there is none",
            reason="keep_not_fitted",
            fix='set strategy = "shunt" and fuse_with, run `outrider cloud check-model --samples DIR`, and write the keep it fits',
        )


def _check_address(large: str, source: str) -> None:
    """An address shows in logs and errors, so that it must hold no secret; nor does this refusal repeat it.

    Raises:
        OperatorConfigError: it holds a user or a query.
    """
    kind, _, place = large.partition(":")
    if kind != "openai":
        return
    address = place.partition("#")[0]
    if "@" in address.partition("://")[2].partition("/")[0] or "?" in address:
        raise OperatorConfigError(
            f"{source}: the address of an openai: large model holds a user, a password or a query",
            reason="secret_in_address",
            fix="write the address alone, put the key into an environment variable, and name that in asking.api_key_env",
        )


def read_task(file: str) -> Task:
    """The task that a file describes.

    Raises:
        OperatorConfigError: the file is missing or is not a task.
    """
    return parse_task(read_text(Path(file)), file)


def read_tasks(config: CloudConfig) -> dict[str, tuple[TaskSettings, Task]]:
    """The tasks of a configuration by name.

    Raises:
        OperatorConfigError: a task file is not one, or two are of the same name.
    """
    tasks: dict[str, tuple[TaskSettings, Task]] = {}
    for settings in config.tasks:
        task = read_task(settings.file)
        if task.name in tasks:
            raise OperatorConfigError(
                f"two of the tasks are named {task.name!r}", reason="duplicate_task", fix="give each a name of its own"
            )
        if settings.strategy == "transfer" and not task.subtasks:
            raise OperatorConfigError(
                f"strategy transfer has nothing to transfer: task {task.name!r} names no sub-tasks",
                reason="no_subtasks",
                fix=f"add [[subtasks]] to {settings.file}, or choose another strategy",
            )
        tasks[task.name] = (settings, task)
    if unknown := sorted(config.trust.automatic.keys() - tasks.keys()):
        raise OperatorConfigError(
            f"trust.automatic.{unknown[0]} is of no task of this cloud",
            reason="unknown_task",
            fix=f"this cloud serves {', '.join(tasks)}",
        )
    return tasks


def _anchored(config: CloudConfig, folder: Path) -> CloudConfig:
    """The same with every path absolute."""

    def anchor(path: str) -> str:
        return str(folder / path) if path else ""

    def large(name: str) -> str:
        kind, _, rest = name.partition(":")
        return f"{kind}:{anchor(rest)}" if kind in _FOLDERS and rest else name

    replace = msgspec.structs.replace
    path = config.store.url.removeprefix("sqlite:///")
    store = f"sqlite:///{anchor(path)}" if path != config.store.url else config.store.url
    return replace(
        config,
        data_dir=anchor(config.data_dir),
        tasks=[
            replace(entry, file=anchor(entry.file), large=large(entry.large), fuse_with=anchor(entry.fuse_with))
            for entry in config.tasks
        ],
        broker=config.broker.anchored(anchor),
        api=replace(config.api.anchored(anchor), token_file=anchor(config.api.token_file)),
        access=config.access.anchored(anchor),
        store=replace(config.store, url=store, password_file=anchor(config.store.password_file)),
        trust=config.trust.anchored(anchor),
        roles=replace(config.roles, key_file=anchor(config.roles.key_file)),
    )
