"""A certificate out of audits alone: what a store's audits of one bundle promise by betting. Functions of a connection; writes nothing.

The labels are the large model's answers; a person's labels are left aside, because a certificate is about one label source.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from outrider_cloud.store.audits import Audit, audits, one_a_group
from outrider_wire.audit_certificate import FromAudits, certify_from_audits, log_capitals
from outrider_wire.errors import RuleRefusalError
from outrider_wire.manifest import Acceptance, Certificate, Manifest, Variant
from outrider_wire.monitor import Monitor, observe
from outrider_wire.scores import SCORES, score_of

GRID = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Thresholds that are tried where the bundle's rule has none: fixed before any audit was seen, for scores that are shares."""
AUDITS_BETWEEN_FALSE_ALARMS = 1000
_NEEDS_LOGITS = ("energy", "deferral")


class AuditVerdict(Struct, kw_only=True, frozen=True):
    """How far the audits have come."""

    found: FromAudits
    left_out: int
    """Audits of a group that another audit speaks for already."""
    unanswered_or_wrong: int
    progress: str


@dataclass(frozen=True, kw_only=True)
class Audited:
    """The verdict, and the manifest that may be claimed under it: None while nothing is certified."""

    verdict: AuditVerdict
    certificate: Certificate | None
    manifest: Manifest | None


def certify(
    connection: sa.Connection,
    *,
    digest: str,
    manifest: Manifest,
    variant: Variant,
    risk: float,
    delta: float,
    teacher: str | None = None,
    thresholds: Sequence[float] = (),
) -> Audited:
    """What the audits of the bundle ``digest`` certify, in the order in which they ended.

    Args:
        connection: to the store.
        digest: of the bundle that answered.
        manifest: its manifest.
        variant: what runs on the devices.
        risk: r*.
        delta: δ over all thresholds.
        teacher: only what that large model judged; None: whichever.
        thresholds: fixed without these audits; none: the rule's own, or `GRID`.

    Raises:
        RuleRefusalError: there are no audits, the rule is one that audits cannot judge, or the audits raise an alarm themselves.
    """
    rule = manifest.acceptance
    tried = _thresholds(rule, thresholds)
    every = audits(connection, task=manifest.task, small_model=digest, teacher_model=teacher)
    rows = one_a_group(every)
    if not rows:
        raise RuleRefusalError(
            f"there are no audits of bundle {digest[:12]}… in the store",
            reason="no_audits",
            fix="let the devices run it with policy.audit_rate above 0, or in shadow mode",
        )
    scores, losses = _scores(rule, rows), np.asarray([row.loss for row in rows], np.float64)
    found = certify_from_audits(scores, losses, tried, risk=risk, delta=delta)
    verdict = AuditVerdict(
        found=found,
        left_out=len(every) - len(rows),
        unanswered_or_wrong=int(losses.sum()),
        progress=found.progress,
    )
    if found.threshold is None:
        return Audited(verdict=verdict, certificate=None, manifest=None)
    _check_quiet(losses[scores >= found.threshold], risk)
    stricter = rule.stricter if rule.stricter is not None and rule.stricter > found.threshold else None
    claimed = replace(manifest, acceptance=replace(rule, threshold=found.threshold, stricter=stricter))
    best = found.nearest
    certificate = Certificate(
        method="audits",
        risk=risk,
        delta=delta,
        n=len(rows),
        groups=len(rows),
        accepted=best.audits,
        errors=best.errors,
        coverage=best.audits / len(rows),
        risk_bound=_bound(losses[scores >= found.threshold], found),
        label_source="large_model",
        data_digest=hashlib.sha256("\n".join(sorted(row.group for row in rows)).encode()).hexdigest(),
        provider=variant.provider,
        precision=variant.precision,
        claims=claimed.claims(variant),
    )
    return Audited(verdict=verdict, certificate=certificate, manifest=replace(claimed, certificate=certificate))


def _check_quiet(losses: NDArray[np.float64], risk: float) -> None:
    """Whether the promise has held for as long as the audits go back: betting rests on one risk for all of them.

    Raises:
        RuleRefusalError: a monitor over these very audits has alarmed.
    """
    monitor = Monitor(risk=risk, alpha=1.0 / AUDITS_BETWEEN_FALSE_ALARMS)
    for loss in losses.astype(np.int64).tolist():
        monitor = observe(monitor, loss)
    if monitor.alarmed:
        raise RuleRefusalError(
            f"the audits say that the promise was broken (alarm after {monitor.alarmed_at} of {monitor.audits}): older ones say "
            "nothing of the inputs that come now",
            reason="alarm",
            fix="release another model, or certify on labelled rows of today: outrider certify BUNDLE --data DIR",
        )


def _thresholds(rule: Acceptance, asked: Sequence[float]) -> Sequence[float]:
    if rule.strata:
        raise RuleRefusalError(
            "the bundle's rule has strata, and audits do not say which stratum an input was of",
            reason="strata",
            fix="certify it on labelled rows: outrider certify BUNDLE --data DIR",
        )
    if rule.score in _NEEDS_LOGITS:
        raise RuleRefusalError(
            f"the bundle's rule scores by {rule.score}, which audits do not carry",
            reason="score_not_kept",
            fix=f"export it with one of {', '.join(name for name in SCORES if name not in _NEEDS_LOGITS)}",
        )
    if rule.threshold is None:
        return asked or GRID
    if any(each < rule.threshold for each in asked):
        raise RuleRefusalError(
            f"audits are drawn from what the rule keeps, at {rule.threshold:.4g} or more: they say nothing of lower thresholds",
            reason="threshold_below_rule",
            fix="ask for the rule's own threshold or higher ones, or audit in shadow mode",
        )
    return asked or (rule.threshold,)


def _scores(rule: Acceptance, rows: Sequence[Audit]) -> NDArray[np.float64]:
    def of(row: Audit) -> float:
        if not row.supported or not row.probabilities:
            return -math.inf
        p = np.asarray(row.probabilities, np.float64)
        return float(score_of(rule.score, np.log(np.maximum(p, 1e-300)), p, None))

    return np.asarray([of(row) for row in rows], np.float64)


def _bound(losses: NDArray[np.float64], found: FromAudits) -> float:
    """The smallest risk that these audits would have certified."""
    low, high = 0.0, found.risk
    for _ in range(40):
        middle = (low + high) / 2
        reached = float(log_capitals(losses, middle).max()) >= math.log(found.wanted)
        low, high = (low, middle) if reached else (middle, high)
    return high
