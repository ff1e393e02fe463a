"""What the local API shows besides answers: tasks, status, errors. Pure values."""

from typing import Literal

from msgspec import Struct

from outrider_edge.budget.budget import LimitView
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.journey.reports import ALARM
from outrider_edge.journey.watch import Promise, WatchView
from outrider_edge.memory.memory import MemoryView
from outrider_edge.outbox.view import OutboxView
from outrider_edge.ports import ShadowCounts
from outrider_edge.sources.figures import SourceView
from outrider_edge.thermal.keeper import ThermalView
from outrider_edge.webhooks.webhook import SinkView
from outrider_wire.messages import Modality, SlotReport
from outrider_wire.report import Account


class PartView(Struct, kw_only=True, frozen=True):
    """One part that every input of a task has."""

    name: str
    modality: Modality
    max_bytes: int


class TaskView(Struct, kw_only=True, frozen=True):
    """One task, and the model that answers it now."""

    name: str
    description: str
    parts: list[PartView]
    labels: list[str]
    answer_within_ms: int
    mode: Literal["live", "shadow"]
    escalates: bool
    """Whether anything of it may leave the device."""
    model: str
    """Version of the bundle."""
    model_digest: str
    provider: str
    """What runs it: an execution provider of ONNX Runtime, or a native engine."""
    passed_over: dict[str, str]
    """Wanted provider that does not run → why, or how far its engine is."""
    certificate: str
    """Id of the certificate in force; '' without one."""
    certificate_fault: str
    """Why none is in force; '' with one."""
    threshold: float | None
    strata: dict[str, float | None]
    """Stratum → its own threshold, where the task has any; ``threshold`` is then of what none matches."""
    target_risk: float
    target_gap: float | None
    """How much more often than the large model alone the system may be wrong, as certified; None: not certified, or not any more."""
    gap_fault: str
    """Why it is not any more; '' else."""
    watch: WatchView
    """Whether audits still bear the certificate out."""
    shadow: ShadowCounts | None
    """What shadow mode would have sent of the inputs that this model answered; None: the task is not in shadow mode."""


class StatusView(Struct, kw_only=True, frozen=True):
    """How this device fares."""

    device: str
    agent: str
    """Version of Outrider."""
    uptime_s: float
    broker: Literal["none", "connected", "unreachable"]
    bytes_up: int
    """Payload bytes that the broker has taken since the start."""
    account: Account
    tasks: list[TaskView]
    slots: list[SlotReport]
    """Where each task's updates stand."""
    budgets: dict[str, dict[str, LimitView]] = {}
    """How every limit stands, by task and by its name in the task file."""
    memories: dict[str, MemoryView] = {}
    """How every answer memory fares, by task."""
    outbox: OutboxView | None = None
    """How full it is, what made way, and what is wrong with it."""
    profile: str = ""
    """The device profile that the configuration names; '' without one."""
    thermal: ThermalView | None = None
    """How warm the board is, and what that costs; None: nobody looks."""
    sinks: dict[str, SinkView] = {}
    """How every sink of final reports fares, by name."""
    sources: dict[str, SourceView] = {}
    """How every source of inputs fares, by name."""


class LiveView(Struct, kw_only=True, frozen=True):
    """The process serves."""

    live: bool


class ReadyView(Struct, kw_only=True, frozen=True):
    """Whether it answers inputs, and of which tasks."""

    ready: bool
    tasks: list[str]


class ErrorView(Struct, kw_only=True, frozen=True):
    """What was wrong, and the way out."""

    reason: str
    """Stable code."""
    what: str
    fix: str = ""
    part: str = ""
    """The guilty part of the input, where there is one."""


class ErrorReply(Struct, kw_only=True, frozen=True):
    """The body of every reply that is not an answer."""

    error: ErrorView


def _gap(runtime: TaskRuntime) -> float | None:
    certificate = runtime.model.manifest.certificate
    if certificate is None or certificate.system is None or runtime.system_fault:
        return None
    return certificate.system.gap


def task_view(runtime: TaskRuntime, promise: Promise) -> TaskView:
    """One task as it is served now."""
    task, model = runtime.task, runtime.model
    manifest, fault, alarmed = model.manifest, model.certified, promise.watch.state == "alarm"
    return TaskView(
        name=task.name,
        description=task.description,
        parts=[PartView(name=part.name, modality=part.modality, max_bytes=part.max_bytes) for part in task.inputs],
        labels=task.labels,
        answer_within_ms=task.policy.answer_within_ms,
        mode=task.policy.mode,
        escalates=task.privacy.escalate and task.policy.mode == "live",
        model=manifest.version,
        model_digest=model.digest,
        provider=model.variant.provider,
        passed_over={**{each.provider: each.reason for each in model.session.passed_over}, **runtime.engines},
        certificate="" if alarmed else model.certificate_id,
        certificate_fault=ALARM
        if alarmed
        else f"{fault}; {runtime.replaying}"
        if fault and runtime.replaying
        else fault,
        threshold=promise.threshold,
        strata={} if fault or alarmed else {each.name: each.threshold for each in manifest.acceptance.strata},
        target_risk=task.policy.target_risk,
        target_gap=_gap(runtime) if not fault and not alarmed else None,
        gap_fault=runtime.system_fault,
        watch=promise.watch,
        shadow=promise.shadow,
    )
