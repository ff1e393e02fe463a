"""What another precision or provider may claim of a bundle's certificate, once it has answered the same certification rows. Pure.

A certificate is a claim about one model on one provider (C). What runs elsewhere (E) rounds otherwise: its answers and its scores are
others, and so is its risk, until it has been tested itself. The rows are those of the certificate, and the sequence of thresholds is the
one that was fixed on tuning rows, so that E's own fixed-sequence test (`outrider_wire.certificate`) is a valid one, at any level.

**Which level.** Each look at the same rows is one more chance to be wrong, so that the k-th pays δ·6/(π²k²) (`reused_delta`; C was the
first): all replays on a device together are wrong with probability at most Σ_{k≥2} 6/(π²k²) δ = 0.39 δ, whichever of them is then used.

**What it gives.** The lowest thresholds that E passes, none below C's: E may keep less than C, never more. A stratum that passes nothing
escalates; where none passes, E claims nothing.

**Identical** is an E that on every row decides as C did and, where it keeps, answers as C did: no row tells the two apart. It is tested
at C's own δ, and keeps C's thresholds where it passes there. Its claim by itself holds with confidence 1 − δ: were its risk there above r*,
its own test would pass with probability at most δ. What is not paid for is the union over several such engines; for these
the replay gives `Replayed.unlike`, which at the level of the k-th look bounds the share of groups on which E does otherwise than C
((1 − unlike)^groups = δ_k), and so how far its risk can be from C's. See docs/adr/0008-replay-voids-and-renews.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from outrider_wire.acceptance import Signals, accepted, supported_scores
from outrider_wire.certificate import Outcome, delta_parts, reused_delta, strata_sequences
from outrider_wire.errors import BundleMismatchError
from outrider_wire.manifest import Acceptance, Certificate

FIRST_REPLAY = 2
"""The certificate itself was the first use of its rows."""


class Ladder(Struct, kw_only=True, frozen=True):
    """What a stratum's test goes through, fixed on tuning rows."""

    thresholds: Annotated[list[float], Meta(min_length=1, max_length=256)]
    """The strictest first."""
    coverages: Annotated[list[float], Meta(min_length=1, max_length=256)]
    """What they are quantiles at."""
    rows: Annotated[int, Meta(ge=0)]
    """Tuning rows: δ is shared out by them."""


@dataclass(frozen=True, kw_only=True)
class CertifiedRows:
    """The certification rows, without their inputs, and what the certified model did with each."""

    labels: NDArray[np.int64]
    """(n,)"""
    groups: NDArray[np.int64]
    """(n,) number of the group that each belongs to."""
    strata: Sequence[str]
    """(n,) or empty."""
    answers: NDArray[np.int64]
    """(n,) the label that the certified model gave."""
    kept: NDArray[np.bool_]
    """(n,) whether its rule kept it."""
    ladders: Mapping[str, Ladder]
    """Stratum ('' where there are none) → its sequence."""

    @property
    def group_names(self) -> list[str] | None:
        """(n,) the group of each row; None where each is its own."""
        apart = len(np.unique(self.groups)) == len(self.groups)
        return None if apart else [str(group) for group in self.groups.tolist()]

    def fault(self, certificate: Certificate) -> str:
        """Why they are not the rows of that certificate; '' where they are, as far as counting tells."""
        wrong = int((self.kept & (self.answers != self.labels)).sum())
        found = (len(self.labels), len(np.unique(self.groups)), int(self.kept.sum()), wrong)
        said = (certificate.n, certificate.groups, certificate.accepted, certificate.errors)
        return "" if found == said else f"rows, groups, kept and wrong are {found}, and the certificate says {said}"


class Replayed(Struct, kw_only=True, frozen=True):
    """What came of a replay."""

    k: int
    """Which use of the rows it was; the certificate was the first."""
    delta: float
    """At what level it was tested."""
    identical: bool
    differ: int
    """Rows on which it decides otherwise than the certified model, or keeps with another answer."""
    unlike: float
    """Upper bound, at the level of this look, of the share of groups with such a row; 1 where there are any."""
    n: int
    accepted: int
    errors: int
    """Wrong ones of the accepted, by the new rule."""
    rule: Acceptance | None
    """What it may answer by under the certificate; None: nothing."""
    why: str = ""
    """Why nothing may be claimed, or what it costs; '' where it is all the certificate's."""


def replay(
    rule: Acceptance, certificate: Certificate, rows: CertifiedRows, said: Signals, *, k: int = FIRST_REPLAY
) -> Replayed:
    """What may be claimed of what says ``said`` of the certification rows.

    Args:
        rule: the bundle's, with the certified thresholds.
        certificate: the bundle's.
        rows: its rows.
        said: what the new precision or provider says of them, in their order.
        k: which use of the rows this is, from `FIRST_REPLAY` on.

    Raises:
        BundleMismatchError: the rows are not those of the certificate, or were not all answered (``certification_mismatch``).
    """
    if fault := rows.fault(certificate):
        raise _mismatch(fault)
    if len(said.probabilities) != len(rows.labels):
        raise _mismatch(f"there are {len(said.probabilities)} answers to {len(rows.labels)} rows")
    if k < FIRST_REPLAY:
        raise ValueError("the certificate was the first use of its rows")
    said = said._replace(strata=rows.strata)
    answers = said.probabilities.argmax(axis=1)
    kept = accepted(rule, said)
    differ = int(((kept != rows.kept) | (kept & (answers != rows.answers))).sum())
    paid = reused_delta(certificate.delta, k)
    delta = paid if differ else certificate.delta
    outcomes = strata_sequences(
        supported_scores(rule, said),
        answers == rows.labels,
        strata=rows.strata or [""] * len(answers),
        thresholds={name: ladder.thresholds for name, ladder in rows.ladders.items()},
        risk=certificate.risk,
        deltas=delta_parts(delta, {name: ladder.rows for name, ladder in rows.ladders.items()}),
        coverages={name: ladder.coverages for name, ladder in rows.ladders.items()},
        groups=rows.group_names,
    )
    mine = _lowered(rule, outcomes)
    left = accepted(mine, said)
    return Replayed(
        k=k,
        delta=delta,
        identical=not differ,
        differ=differ,
        unlike=1.0 if differ else 1.0 - paid ** (1.0 / max(1, certificate.groups)),
        n=len(rows.labels),
        accepted=int(left.sum()),
        errors=int((left & (answers != rows.labels)).sum()),
        rule=mine if mine.keeps_anything else None,
        why=_failed(differ, delta)
        if not mine.keeps_anything
        else ""
        if mine == rule
        else _costs(rows.kept, left, delta),
    )


def _lowered(rule: Acceptance, outcomes: Mapping[str, Outcome]) -> Acceptance:
    """The rule with the lowest threshold that each stratum has passed and that is not below its own."""

    def passed(name: str, own: float | None) -> float | None:
        if own is None or name not in outcomes:
            return None
        found = (step.threshold for step in outcomes[name].tested if step.passed and step.threshold >= own)
        return min(found, default=None)

    names = {each.name for each in rule.strata}
    rest = next((name for name in outcomes if name not in names), "")
    strata = [msgspec.structs.replace(each, threshold=passed(each.name, each.threshold)) for each in rule.strata]
    return msgspec.structs.replace(rule, threshold=passed(rest, rule.threshold), strata=strata)


def _failed(differ: int, delta: float) -> str:
    return f"it does not pass on the certification rows at δ = {delta:.2g}: {differ} of them come out otherwise"


def _costs(before: NDArray[np.bool_], now: NDArray[np.bool_], delta: float) -> str:
    kept, were = int(now.sum()), int(before.sum())
    return f"it keeps {kept} of the certification rows where the certified one keeps {were}, at δ = {delta:.2g}"


def _mismatch(what: str) -> BundleMismatchError:
    return BundleMismatchError(
        f"the certification rows are not those of the certificate: {what}",
        reason="certification_mismatch",
        fix="certify the bundle again, or export it again",
    )
