"""Calibration, acceptance rule and certificate of the very session that ships, on rows of their own roles. Trains nothing."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_engine.items import MAX_ROWS, encode_items
from outrider_engine.model import Model
from outrider_export.asking import Said, ask
from outrider_export.choices import Choices, Kept, choose, recalibrated
from outrider_export.copies import check_copies
from outrider_export.data import Table, Tensors
from outrider_export.promises import FALSE_ALARMS, NO_ROWS, Promise, verdict
from outrider_wire.acceptance import Signals, accepted, supported_scores
from outrider_wire.certificate import DEFAULT_COVERAGES, Gap, Outcome, delta_parts, strata_sequences, upper_bound
from outrider_wire.errors import RuleRefusalError
from outrider_wire.groups import GROUP_ROWS, one_per_group, rows_a_group, some_per_group
from outrider_wire.manifest import Acceptance, Calibration, Certificate, StratumClaim, StratumRule, SystemClaim
from outrider_wire.replay import CertifiedRows, Ladder
from outrider_wire.scores import ScoreName
from outrider_wire.strata import OTHER, Stratum
from outrider_wire.task import InputPart

Probabilities = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Behind:
    """The large model behind the device, for claims about both together."""

    name: str
    """With its revision."""
    ask: Callable[[Table], Probabilities]
    """(n, k) what it says of rows."""
    strategy: str = "shunt"
    combine: Callable[[Probabilities, Probabilities], Probabilities] = lambda large, small: large
    """(large (n, k), small (n, k)) → the answer's distribution (n, k)."""


def behind_model(model: Model, bounds: Sequence[InputPart] = ()) -> Behind:
    """A bundle as the large model of a plain shunt."""
    return Behind(
        name=f"{model.manifest.version}@{model.digest[:12]}",
        ask=lambda table: (
            ask(model, table.tensors(model.manifest.inputs, bounds, encoders=model.encoders)).probabilities
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Certified:
    """What came of it."""

    calibration: Calibration
    acceptance: Acceptance
    certificate: Certificate | None
    hopeless: Sequence[str]
    """Strata that were not tested, because their tuning rows are no evidence at all."""
    outcomes: Mapping[str, Outcome]
    """Stratum ('' where the task has none) → its sequence of tests; empty when there were no certification rows."""
    scores: Mapping[ScoreName, float]
    """Area under the risk–coverage curve of each score on tuning rows."""
    tuning_accuracy: float
    calibration_error: float
    """Expected calibration error of the tuning rows, calibrated."""
    support_false_alarm: float | None
    """Share of the certification rows that the support distance refuses."""
    sentences: list[str]
    """The above for a person: what is promised, or why nothing is and how many rows are needed."""
    items: bytes = b""
    """The certification rows as `outrider_engine.items` keeps them; empty where nothing was certified."""


def calibrate_and_certify(
    *,
    model: Model,
    tuning: Table,
    certification: Table | None,
    promise: Promise,
    key: str,
    bounds: Sequence[InputPart] = (),
    support_fitted_here: bool = False,
    coverages: Sequence[float] = DEFAULT_COVERAGES,
    strata: Sequence[Stratum] = (),
    behind: Behind | None = None,
    keep_rule: bool = False,
    caps: Mapping[str, float] | None = None,
) -> Certified:
    """Chooses on the tuning rows, then certifies once on the certification rows; of both, a few labelled rows a group.

    Args:
        model: the bundle as it will ship, all but its calibration, rule and certificate.
        tuning: rows of the tuning role.
        certification: rows of the certification role, never used for any choice; None: no certificate is wanted.
        promise: risk, gap, δ and whose labels the rows carry.
        key: chooses the rows of each group.
        bounds: the task's parts.
        support_fitted_here: the support distance was fitted on these very tuning rows, so that its own unit is the threshold.
        coverages: shares of the tuning rows that the candidate thresholds keep.
        strata: kinds of input that are certified apart.
        behind: the large model: a promised gap needs it, and the bound on its error is measured with it.
        caps: stratum → the largest coverage that may be tested, where a gate has judged no larger one; a stratum that is missing
            is not tested. None: no caps.
        keep_rule: the model's own calibration, score and support threshold stay; only its thresholds are set anew.

    Raises:
        RuleRefusalError: a group or an input is in both tables, there are no labelled tuning rows, or a gap is promised of no large model.
    """
    if promise.gap is not None and behind is None:
        raise RuleRefusalError(
            "a gap to the large model cannot be certified without one",
            reason="no_large_model",
            fix="name the large model",
        )
    held = _usable(tuning, key, GROUP_ROWS)
    choices = choose(
        _said(model, held, bounds, strata),
        held.labels,
        groups=held.groups,
        risk=promise.risk,
        coverages=coverages,
        caps=caps,
        support_fitted_here=support_fitted_here,
        kept=Kept(model.manifest.calibration, model.manifest.acceptance) if keep_rule else None,
    )
    trial = None
    if certification is not None:
        check_disjoint(tuning, certification)
        check_copies(tuning, certification)
        rows = certifying_rows(certification, key, strata, tuning=held)
        tensors = rows.tensors(model.manifest.inputs, bounds, encoders=model.encoders)
        trial = _Trial(
            table=rows,
            tensors=tensors,
            rows=recalibrated(ask(model, tensors, rows.strata(strata)), choices.calibration),
            choices=choices,
            promise=promise,
            behind=behind,
        )
    rule = _rule(choices, trial.outcomes if trial else {}, strata)
    certificate = trial.certificate(model, rule) if trial and rule.keeps_anything else None
    return Certified(
        calibration=choices.calibration,
        acceptance=rule,
        certificate=certificate,
        items=trial.items(certificate, rule) if trial and certificate else b"",
        hopeless=choices.hopeless,
        outcomes=trial.outcomes if trial else {},
        scores=choices.areas,
        tuning_accuracy=choices.accuracy,
        calibration_error=choices.calibration_error,
        support_false_alarm=trial.false_alarm if trial else None,
        sentences=[*verdict(trial.outcomes, choices.hopeless, promise, gap=trial.claims_gap), *trial.remarks]
        if trial
        else [NO_ROWS],
    )


def check_disjoint(tuning: Table, certification: Table) -> None:
    """Refuses rows to certify on that a choice was made on.

    Raises:
        RuleRefusalError: a group is in both tables.
    """
    shared = set(tuning.groups) & set(certification.groups)
    if shared:
        raise RuleRefusalError(
            f"{len(shared)} group(s) are in both the tuning and the certification rows, {min(shared)!r} among them",
            reason="roles_overlap",
            fix="give every group one role",
        )


def data_digest(groups: Sequence[str]) -> str:
    """How a certificate names its rows: the digest of their sorted group ids."""
    return hashlib.sha256("\n".join(sorted(set(groups))).encode()).hexdigest()


def _usable(table: Table, key: str, most: int) -> Table:
    labelled = table.take(np.flatnonzero(table.labels >= 0))
    if not len(labelled):
        raise RuleRefusalError(
            "there are no labelled rows to calibrate or certify on", reason="no_rows", fix="label some rows"
        )
    return labelled.some_per_group(key, most)


def certifying_rows(table: Table, key: str, strata: Sequence[Stratum], *, tuning: Table) -> Table:
    """Of each stratum's labelled rows, as many a group as it certifies by: those that `calibrate_and_certify` looks at.

    How many that are, the sizes of the *tuning* groups say, so that it is fixed before a certification row is drawn.
    """
    most = {name: rows_a_group(groups) for name, groups in _groups_of(tuning, strata).items()}
    labelled = np.flatnonzero(table.labels >= 0)
    names = np.asarray(table.strata(strata) or [""] * len(table), np.str_)[labelled]
    rows: list[int] = []
    for name in dict.fromkeys(names.tolist()):
        own = labelled[names == name]
        groups = [table.groups[row] for row in own.tolist()]
        rows += own[some_per_group(groups, key, most.get(name, 1))].tolist()
    return _usable(table.take(sorted(rows)), key, len(table))


def _groups_of(table: Table, strata: Sequence[Stratum]) -> dict[str, list[str]]:
    """Stratum → the group of each of its labelled rows."""
    found: dict[str, list[str]] = {}
    names = table.strata(strata) or [""] * len(table)
    for name, group, label in zip(names, table.groups, table.labels.tolist(), strict=True):
        if label >= 0:
            found.setdefault(name, []).append(group)
    return found


def _said(model: Model, table: Table, bounds: Sequence[InputPart], strata: Sequence[Stratum]) -> Said:
    return ask(model, table.tensors(model.manifest.inputs, bounds, encoders=model.encoders), table.strata(strata))


def _rule(choices: Choices, outcomes: Mapping[str, Outcome], strata: Sequence[Stratum]) -> Acceptance:
    """The chosen rule with the thresholds that were certified."""
    certified = {name: outcome.threshold for name, outcome in outcomes.items()}
    own = [
        StratumRule(name=each.name, part=each.part, any_of=each.any_of, threshold=certified.get(each.name))
        for each in strata
    ]
    n = sum(outcome.n for outcome in outcomes.values())
    kept = sum(outcome.accepted for outcome in outcomes.values()) / n if n else 0.0
    return msgspec.structs.replace(
        choices.rule,
        threshold=certified.get(OTHER if strata else ""),
        strata=own,
        stricter=choices.threshold_at(kept / 2) if kept else None,
    )


class _Trial:
    """The certification rows, looked at once."""

    def __init__(
        self,
        *,
        table: Table,
        tensors: Tensors,
        rows: Signals,
        choices: Choices,
        promise: Promise,
        behind: Behind | None,
    ) -> None:
        self._table = table
        self._tensors = tensors
        self._rows = rows
        self._choices = choices
        self._promise = promise
        self._behind = behind
        self._right: Flags = rows.probabilities.argmax(1) == table.labels
        self._large = behind.ask(table) if behind else None
        self.gap = self._paired_losses() if promise.gap is not None else None
        self.outcomes = self._tested()

    @property
    def false_alarm(self) -> float | None:
        """Share of the rows that the support distance refuses."""
        support, threshold = self._rows.support, self._choices.rule.support_threshold
        return None if support is None or threshold is None else float((support > threshold).mean())

    @property
    def _all_tested(self) -> bool:
        """Whether every stratum has passed."""
        return not self._choices.hopeless and all(each.threshold is not None for each in self.outcomes.values())

    @property
    def claims_gap(self) -> bool:
        """Whether the system's gap may be claimed, where something is certified."""
        return self.gap is not None and (self._all_tested or not self.gap.sent.any())

    @property
    def remarks(self) -> list[str]:
        """What else a person should know."""
        if (share := self.false_alarm) is None:
            return []
        return [
            f"{share:.1%} of the certification rows are refused as unlike what the model knows ({FALSE_ALARMS:.0%} aimed at)",
        ]

    def certificate(self, model: Model, rule: Acceptance) -> Certificate:
        """The certificate of a rule that keeps something."""
        manifest = msgspec.structs.replace(model.manifest, calibration=self._choices.calibration, acceptance=rule)
        kept = accepted(rule, self._rows)
        certified = [outcome for outcome in self.outcomes.values() if outcome.threshold is not None]
        return Certificate(
            method=certified[0].method,
            risk=self._promise.risk,
            delta=self._promise.delta,
            n=len(self._table),
            groups=len(set(self._table.groups)),
            accepted=int(kept.sum()),
            errors=int((kept & ~self._right).sum()),
            coverage=float(kept.mean()),
            risk_bound=max(outcome.risk_bound for outcome in certified),
            label_source=self._promise.label_source,
            data_digest=data_digest(self._table.groups),
            provider=model.variant.provider,
            precision=model.variant.precision,
            claims=manifest.claims(model.variant),
            strata=[_claim(name, outcome) for name, outcome in self.outcomes.items() if name],
            system=self._system(kept),
            large_error=self._large_error(kept),
        )

    def items(self, certificate: Certificate, rule: Acceptance) -> bytes:
        """What another precision or provider would be put to the same test with; empty where there are too many rows to ship."""
        if len(self._table) > MAX_ROWS:
            return b""
        choices = self._choices
        ladders = {
            name: Ladder(thresholds=list(ladder), coverages=list(choices.coverages[name]), rows=choices.rows[name])
            for name, ladder in choices.ladders.items()
        }
        return encode_items(
            certificate=certificate.id,
            values=self._tensors.values,
            index=self._tensors.index,
            rows=CertifiedRows(
                labels=self._table.labels,
                groups=np.unique(np.asarray(self._table.groups), return_inverse=True)[1].astype(np.int64),
                strata=self._rows.strata,
                answers=np.asarray(self._rows.probabilities.argmax(1), np.int64),
                kept=accepted(rule, self._rows),
                ladders=ladders,
            ),
        )

    def _tested(self) -> Mapping[str, Outcome]:
        scores, choices, promise = supported_scores(self._choices.rule, self._rows), self._choices, self._promise
        return strata_sequences(
            scores,
            self._right,
            strata=self._rows.strata or [""] * len(scores),
            thresholds=choices.ladders,
            risk=promise.risk,
            deltas=delta_parts(promise.delta, choices.rows),
            coverages=choices.coverages,
            groups=self._table.groups,
            gap=self.gap,
        )

    def _paired_losses(self) -> Gap | None:
        if self._behind is None or self._large is None or self._promise.gap is None:
            return None
        labels = self._table.labels
        large_wrong = (self._large.argmax(1) != labels).astype(np.int64)
        joined = self._behind.combine(self._large, self._rows.probabilities).argmax(1) != labels
        return Gap(most=self._promise.gap, kept=~self._right - large_wrong, sent=joined - large_wrong)

    def _system(self, kept: Flags) -> SystemClaim | None:
        if self.gap is None or self._behind is None:
            return None
        if not self.claims_gap:
            return None  # what always escalates was not tested, and a strategy that joins the models may be worse there
        found = float(np.where(kept, self.gap.kept, self.gap.sent).mean())
        return SystemClaim(gap=self.gap.most, found=found, large=self._behind.name, strategy=self._behind.strategy)

    def _large_error(self, kept: Flags) -> float | None:
        """Upper bound of the large model's error on what is kept, one row a group, at δ over the number of rules it could be."""
        if self._large is None:
            return None
        rows = np.flatnonzero(kept)
        rows = rows[one_per_group([self._table.groups[row] for row in rows.tolist()], "large-error")]
        wrong = int((self._large[rows].argmax(1) != self._table.labels[rows]).sum())
        return upper_bound(wrong, len(rows), self._promise.delta / self._choices.steps)


def _claim(name: str, outcome: Outcome) -> StratumClaim:
    return StratumClaim(
        name=name,
        n=outcome.n,
        accepted=outcome.accepted,
        errors=outcome.errors,
        coverage=outcome.coverage,
        risk_bound=outcome.risk_bound,
    )
