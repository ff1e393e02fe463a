"""The seams of the agent: what its halves say to each other. Types only; knows no SQLite, MQTT or HTTP.

One input's way through them::

    Agent ── ledger.arrived ── runtime.answer ── gate ──┬── answered here: ledger.count_local
                                                        └── escalated: uplink.escalate(entry)   durable, pending (or an audit)
    Uplink ── answer, last refusal, expiry ── settled durably (terminal state, set once) ── on_final(report) ── Agent
                                              or, of an audit, its loss and the monitor in one commit ── on_audit ── Agent

The account is kept by the ledger alone: ``received`` and ``pending`` rise together in `LedgerPort.arrived`; each of
`LedgerPort.count_local`, an audit's `UplinkPort.escalate` and the settling of an escalation moves one input out of
``pending``. ``uncertified`` is counted with a terminal state whose answer is the device's own and not ``certified``.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from outrider_engine.model import Model
from outrider_wire.messages import (
    Answer,
    Desired,
    Escalation,
    Fact,
    Milliseconds,
    Modality,
    MonitorFigures,
    Reported,
    SlotReport,
    Telemetry,
)
from outrider_wire.monitor import Monitor
from outrider_wire.report import Account, AnswerReport
from outrider_wire.task import Task


class OutboxFull(Struct, kw_only=True, frozen=True):
    """All of a part of which a first form is sent; kept until the cloud needs no more of it."""

    media_type: str
    data: bytes


class OutboxPart(Struct, kw_only=True, frozen=True):
    """One part of an input on its way out. Whether its bytes travel inline or are pulled is the uplink's choice."""

    name: str
    modality: Modality
    media_type: str
    data: bytes
    """Text is UTF-8. Of a part that has a first form, that."""
    full: OutboxFull | None = None


class OutboxEntry(Struct, kw_only=True, frozen=True):
    """One escalation, as the agent hands it over: what goes to the cloud, and what the device must still know of it."""

    id: str
    task: str
    parts: list[OutboxPart]
    why: str
    """``low_confidence``, ``unsupported``, ``no_certificate``, ``requested`` or ``audit``."""
    model: str
    """Digest of the bundle that answered."""
    label: str
    probabilities: list[float]
    audit: float = 0.0
    """The sampling probability of an audit; 0: no audit."""
    answer_within_ms: int
    """Counted from ``began``; an offer carries what is left of it."""
    keep_for_s: int
    """Counted from ``began``, over restarts and reboots; an offer carries what is left of it."""
    began: float | None = None
    """When its caller asked, on `time.perf_counter` of this process; None: now."""
    group: str = ""
    facts: list[Fact] = []
    """Answers to the task's sub-tasks."""
    state: Literal["pending", "edge", "memory"]
    """Other than ``pending``: its answer is given and its terminal state set; what the cloud says will not change either. It is an
    audit, of the device's own answer (``audit`` is its probability) or of one from memory, or it is kept to be learnt from."""
    report: AnswerReport
    """So far, its ``probabilities`` in the task's order: what a look-up by id gives until it is settled."""
    durability: Literal["disk", "memory"] = "disk"


class Watched(Struct, kw_only=True, frozen=True):
    """The watch over one certificate, as it is saved."""

    task: str
    certificate: str
    monitor: Monitor
    alarm_since_ms: int | None = None
    """UTC by this device's clock."""


class AuditEnded(Struct, kw_only=True, frozen=True):
    """How one audit ended, once that is durable. Its answer was given long ago, and stays."""

    report: AnswerReport
    loss: int
    """1: the large model says something else, or nothing will ever be known (expired, refused, never kept)."""
    watched: Watched | None
    """The watch over the certificate that the answer was given under, this audit counted; None: nobody watches it."""
    alarm: bool
    """This audit raised the alarm."""


class ShadowEntry(Struct, kw_only=True, frozen=True):
    """What shadow mode would have done with one input."""

    task: str
    id: str
    at_ms: int
    """UTC by this device's clock."""
    model: str
    """Digest of the bundle."""
    score: float
    why: str
    would_send: bool


class ShadowCounts(Struct, kw_only=True, frozen=True):
    """How many inputs of one task one model answered in shadow mode."""

    seen: int = 0
    would_send: int = 0


OnAudit = Callable[[AuditEnded], None]
"""Told by the outbox when an audit has ended and that, with the monitor it moved, is durable; at once when the audit could
not even be kept. Must not raise."""

OnFinal = Callable[[AnswerReport], Awaitable[None]]
"""Told by the uplink when an input that was pending has its terminal state, after that is durable. Never told of audits:
their answers are given. Must not raise."""


OnAside = Callable[[Answer], Awaitable[None]]
"""Told by the uplink of the large model's answer to an input that was answered without it: an audit, or one kept to be learnt
from. Told once an input, after the question is closed durably. Must not raise."""

MaySpare = Callable[[Escalation], bool]
"""Whether the budget has room for this input, which nobody waits for. Asked once it is about to be offered; True spends it."""


class Pulled(Struct, kw_only=True, frozen=True):
    """A full form that a worker begins to pull, of which only a first one was sent."""

    task: str
    size: int
    audit: bool
    """Its input is an audit."""


OnPulled = Callable[[Pulled], None]
"""Told by the uplink of each, once. Must not raise."""


class UplinkPort(Protocol):
    """The way to the cloud. Real: `outrider_edge.uplink.uplink.Uplink`; without a broker: `outrider_edge.uplink.uplink.AloneUplink`."""

    @property
    def enabled(self) -> bool:
        """Whether a broker is configured at all. Without one nothing is ever escalated."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now."""
        ...

    async def escalate(self, entry: OutboxEntry) -> None:
        """Returns when the entry is durable (as its durability asks); offers it as soon as it can.

        `LedgerPort.arrived` has counted it; its commit counts the rest: it stays ``pending``, or, an audit, becomes
        ``edge`` and ``audited``.

        Raises:
            OutriderError: it cannot be kept (reason ``outbox_full``, or the disk fails); nothing is kept or counted.
        """
        ...

    def listen(self, on_final: OnFinal) -> None:
        """Names whom to tell of outcomes; called once, before the uplink is started."""
        ...

    def listen_aside(self, on_aside: OnAside) -> None:
        """Names whom to tell of answers that change no answer; called once, before the uplink is started."""
        ...

    def spare_when(self, may_spare: MaySpare) -> None:
        """Names who knows whether the budget has room for what nobody waits for; called once, before it is started."""
        ...

    def listen_pulled(self, on_pulled: OnPulled) -> None:
        """Names whom to tell of full forms that are pulled; called once, before the uplink is started."""
        ...


class LedgerPort(Protocol):
    """The account and the escalated inputs. Real: `outrider_edge.outbox.outbox.Outbox`.

    The three counting methods are plain and cheap: they change numbers in memory, and a flush makes what is complete
    durable within a second, so that the account on disk adds up after a kill too (an input in flight is in neither sum).
    """

    def arrived(self, task: str) -> None:
        """An input is here: ``received`` and ``pending`` rise."""
        ...

    def count_local(self, task: str, state: Literal["edge", "memory", "refused"], *, uncertified: bool = False) -> None:
        """An input that was never escalated ends: ``pending`` falls, ``state`` rises, and ``uncertified`` when it is so."""
        ...

    def account(self, task: str = "") -> Account:
        """The account of one task, or of all."""
        ...

    @property
    def watches(self) -> "WatchPort":
        """The watch over the certificates, fed by audits."""
        ...

    async def find(self, input_id: str) -> AnswerReport | None:
        """The report of an escalated input, as it stands; None: unknown, never escalated, or forgotten after its retention."""
        ...


class WatchPort(Protocol):
    """The watch over the certificates, and shadow mode's record. Real: `outrider_edge.outbox.watch_desk.WatchDesk`."""

    def listen(self, on_audit: OnAudit) -> None:
        """Names whom to tell of ended audits; called once."""
        ...

    def watch(self, task: str, certificate: str, wanted: Monitor) -> Watched:
        """From now on the audits of answers under that certificate are watched: the saved monitor goes on, or ``wanted`` begins."""
        ...

    def watched(self, task: str, certificate: str) -> Watched | None:
        """The watch over that certificate as it stands; None: it was never begun."""
        ...

    def audit_missed(self, report: AnswerReport) -> None:
        """An audit could not be kept, so that its outcome will never be known: an error, as far as the promise goes."""
        ...

    def shadowed(self, entry: ShadowEntry) -> None:
        """What shadow mode would have done. Cheap; on the disk within a second."""
        ...

    def shadow_counts(self, task: str, model: str) -> ShadowCounts:
        """How many inputs that was said of."""
        ...


class TaskFigures(Struct, kw_only=True, frozen=True):
    """What a device tells of one task besides its account: the body of a `outrider_wire.messages.Telemetry`."""

    task: str
    confidence: list[int]
    """Histogram of the small model's confidence in equal bins over [0, 1], since the start."""
    edge_ms: Milliseconds
    """``p50``, ``p95`` of the recent answers given here."""
    cloud_ms: Milliseconds
    """``p50``, ``p95`` of the recent round trips."""
    monitor: MonitorFigures | None = None
    """The watch over the certificate in use; None: there is none."""


class FiguresPort(Protocol):
    """Where telemetry comes from. Real: `outrider_edge.metrics.Metrics`."""

    def figures(self) -> list[TaskFigures]:
        """One entry a task."""
        ...


class Given(Protocol):
    """An answer, as far as a watcher compares it. Real: `outrider_edge.journey.pipeline.LocalAnswer`."""

    @property
    def model(self) -> Model:
        """That answered."""
        ...

    @property
    def label(self) -> str:
        """What it said."""
        ...


Watcher = Callable[[Mapping[str, bytes | str], Given], None]
"""Shown an input's parts and its answer. Must return at once, and not raise."""


class RuntimePort(Protocol):
    """One task's model in use, as the updater sees it. Real: `outrider_edge.journey.pipeline.TaskRuntime`."""

    @property
    def task(self) -> Task:
        """The task that it answers."""
        ...

    @property
    def model(self) -> Model:
        """The model that the next input gets."""
        ...

    @property
    def plain(self) -> Model:
        """The same as ONNX Runtime runs it: another one where a native engine has taken over."""
        ...

    @property
    def served(self) -> int:
        """Inputs answered since the last swap."""
        ...

    @property
    def failed(self) -> int:
        """Inputs on which the model itself failed since the last swap; a caller's bad input is none."""
        ...

    @property
    def p95_ms(self) -> float:
        """Of the model in use, over its recent answers; 0: it has given none."""
        ...

    def listen(self, watcher: "Watcher | None") -> None:
        """Names who is shown every input and its answer, on whichever thread it was given."""
        ...

    def swap(self, model: Model) -> None:
        """The next input gets ``model``, which is loaded and warm; inputs under way finish on the one they began with."""
        ...


class UpdatesPort(Protocol):
    """The updater, as the uplink sees it. Real: `outrider_edge.updates.device.Updater`."""

    def on_desired(self, desired: Desired) -> None:
        """What the cloud wants in the slots. Returns at once."""
        ...

    def slots(self) -> list[SlotReport]:
        """What the slots hold now."""
        ...

    def facts(self) -> dict[str, str]:
        """What the device says of itself, and plans ask for: site, profile, labels."""
        ...

    async def reported(self) -> Reported:
        """The same as `slots` with all that belongs to it, numbered and signed: made anew each time it is told."""
        ...

    async def signed(self, told: Telemetry) -> Telemetry:
        """The same under the signature of the reports."""
        ...
