"""Whether the certificate in use still holds, as the gate asks it and people read it. Knows no audits' transport and no disk."""

import logging
from typing import Literal

from msgspec import Struct

from outrider_edge.journey.gate import Decision, Suspended
from outrider_edge.journey.pipeline import LocalAnswer
from outrider_edge.journey.reports import samples_all
from outrider_edge.ports import AuditEnded, ShadowCounts, ShadowEntry, Watched, WatchPort
from outrider_engine.model import Model
from outrider_wire.manifest import Acceptance
from outrider_wire.messages import MonitorFigures
from outrider_wire.monitor import Monitor, large_error_of, tolerated_risk
from outrider_wire.task import Task

log = logging.getLogger(__name__)


class WatchView(Struct, kw_only=True, frozen=True):
    """How the watch over one task's certificate stands."""

    state: Literal["none", "unwatched", "watching", "alarm"]
    what: str
    """The same in words."""
    certificate: str = ""
    risk: float | None = None
    """The rate of errors among audits that is still within the promise."""
    statistic: float = 0.0
    limit: float | None = None
    """The statistic at which an alarm is raised: the audits between false alarms, on average, at least."""
    audits: int = 0
    errors: int = 0
    """Audits that disagree with the large model, or whose answer never came."""
    alarm_since_ms: int | None = None
    """UTC by this device's clock."""


class Promise(Struct, kw_only=True, frozen=True):
    """What a person wants to know of one task besides its model."""

    watch: WatchView
    shadow: ShadowCounts | None
    """None: the task is not in shadow mode."""
    threshold: float | None
    """In force; None: nothing is answered under the certificate."""


class Watch:
    """The watch over the certificate of whatever model a task runs. A model without one has none.

    Args:
        watches: keeps the monitors; this object listens to its audits.
    """

    def __init__(self, *, watches: WatchPort) -> None:
        self._watches = watches
        self._begun: set[tuple[str, str]] = set()
        watches.listen(self.on_audit)

    def of(self, task: Task, model: Model) -> Watched | None:
        """The watch over that model's certificate, begun when this is its first use; None: it has no certificate."""
        certificate = model.manifest.certificate
        if certificate is None or model.certified:
            return None
        key = (task.name, model.certificate_id)
        if key in self._begun:
            return self._watches.watched(*key)
        self._begun.add(key)
        risk = tolerated_risk(certificate, task.policy.large_error)
        watched = self._watches.watch(*key, Monitor(risk=risk, alpha=1 / task.policy.audits_between_false_alarms))
        if watched.monitor.alarmed:
            _log_alarm(watched)
        return watched

    def suspended(self, task: Task, model: Model) -> Suspended | None:
        """What the alarm over that model's certificate asks of the gate; None: there is none."""
        watched = self.of(task, model)
        if watched is None or not watched.monitor.alarmed:
            return None
        return Suspended(stricter=stricter_threshold(task, model.manifest.acceptance))

    def threshold(self, task: Task, model: Model) -> float | None:
        """What a score must reach to be answered here, strata apart; None: nothing is."""
        if (suspended := self.suspended(task, model)) is not None:
            return suspended.stricter
        return None if model.certified else model.manifest.acceptance.threshold

    def figures(self, task: Task, model: Model) -> MonitorFigures | None:
        """What telemetry tells."""
        if (watched := self.of(task, model)) is None:
            return None
        monitor = watched.monitor
        return MonitorFigures(
            certificate=watched.certificate,
            risk=monitor.risk,
            statistic=monitor.statistic,
            limit=monitor.limit,
            audits=monitor.audits,
            errors=monitor.errors,
            alarm=monitor.alarmed,
            alarm_since_ms=watched.alarm_since_ms,
        )

    def view(self, task: Task, model: Model, *, alone: bool) -> WatchView:
        """What a person is told."""
        if (watched := self.of(task, model)) is None:
            return WatchView(state="none", what=f"no certificate is in force: {model.certified}")
        monitor, blind = watched.monitor, unwatched(task, alone=alone)
        state: Literal["unwatched", "watching", "alarm"] = "unwatched" if blind else "watching"
        if monitor.alarmed:
            state, what = "alarm", _alarm_in_words(task, model, watched)
        elif blind:
            what = f"unwatched: {blind}"
        else:
            what = f"{monitor.errors} of {monitor.audits} audits wrong, {_allowed(task, model, monitor)}"
        return WatchView(
            state=state,
            what=what,
            certificate=watched.certificate,
            risk=monitor.risk,
            statistic=round(monitor.statistic, 3),
            limit=monitor.limit,
            audits=monitor.audits,
            errors=monitor.errors,
            alarm_since_ms=watched.alarm_since_ms,
        )

    def on_audit(self, ended: AuditEnded) -> None:
        """The ledger's word that an audit has ended: its answer stays as it was given."""
        log.debug("audit.ended", extra={"id": ended.report.id, "task": ended.report.task, "loss": ended.loss})
        if ended.alarm and ended.watched is not None:
            _log_alarm(ended.watched)


def stricter_threshold(task: Task, rule: Acceptance) -> float | None:
    """The threshold after an alarm, where the task asks for one and the bundle names it; None: everything is sent."""
    return rule.stricter if task.policy.on_alarm == "stricter" else None


def unwatched(task: Task, *, alone: bool) -> str:
    """Why nothing is audited; '' when audits are sent."""
    if alone:
        return "without a broker there are no audits"
    if not task.privacy.escalate:
        return "this task's inputs never leave the device, so that there are no audits"
    if task.policy.mode == "shadow" and not samples_all(task, alone=alone):
        return "shadow mode sends no audits, unless policy.shadow_audits is true"
    return "" if task.policy.audit_rate > 0 else "policy.audit_rate is 0"


def shadow_entry(input_id: str, now_ms: int, local: LocalAnswer, live: Decision) -> ShadowEntry:
    """What is recorded of one input: what ``live`` would have done with it."""
    return ShadowEntry(
        task=local.model.manifest.task,
        id=input_id,
        at_ms=now_ms,
        model=local.model.digest,
        score=local.verdict.score,
        why=live.why,
        would_send=live.send,
    )


def _allowed(task: Task, model: Model, monitor: Monitor) -> str:
    certificate = model.manifest.certificate
    if certificate is None or certificate.label_source == "large_model":
        return f"{monitor.risk:.1%} promised"
    error = large_error_of(certificate, task.policy.large_error)
    return f"{monitor.risk:.1%} allowed ({certificate.risk:.1%} promised, {error:.1%} for the large model's own errors)"


def _alarm_in_words(task: Task, model: Model, watched: Watched) -> str:
    strict = stricter_threshold(task, model.manifest.acceptance)
    now = "everything is sent" if strict is None else f"only scores from {strict:.4f} stay here, uncertified"
    monitor = watched.monitor
    return (
        f"ALARM at audit {monitor.alarmed_at} ({monitor.errors} of {monitor.audits} wrong by now, "
        f"{_allowed(task, model, monitor)}): {now} until there is a new certificate"
    )


def _log_alarm(watched: Watched) -> None:
    monitor = watched.monitor
    log.error(
        "certificate.alarm",
        extra={
            "task": watched.task,
            "certificate": watched.certificate,
            "audits": monitor.audits,
            "errors": monitor.errors,
            "risk": monitor.risk,
            "since_ms": watched.alarm_since_ms,
        },
    )
