"""Certification of a plain table of rows: a score, right or wrong, and whatever says what hangs together. Knows no model and no file.

What would make the certificate untrue is refused before anything is tested; loads no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_export.ladders import Sequences, sequences
from outrider_export.promises import Promise
from outrider_export.ruling import Kept, Ruling, kept_by, ruling, with_warnings
from outrider_wire.calibration import calibration_gap, reliability
from outrider_wire.certificate import DEFAULT_COVERAGES, Outcome, delta_parts, strata_sequences
from outrider_wire.errors import RuleRefusalError
from outrider_wire.groups import GROUP_ROWS, rows_a_group, some_per_group
from outrider_wire.roles import Shares, role_of

HELD_OUT = Shares(train=0.0, tuning=0.3, gate=0.0, certification=0.7, test=0.0)
"""How rows that no model was trained on are split: choices need fewer than the certificate."""
MIN_GAP_S = 5.0
"""Rows nearer in time than this are taken for frames of one event."""
GROUPS_SHOWN = 10
_FEWEST_KEPT = 10
"""Kept rows below which a single group is not worth showing."""

RowRole = Literal["tuning", "certification", "other"]


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Rows in columns; an empty list is a column that is not there."""

    scores: NDArray[np.float64]
    """(n,) higher is surer; −inf: refused whatever the threshold."""
    right: NDArray[np.bool_]
    """(n,)"""
    groups: Sequence[str] = ()
    roles: Sequence[RowRole] = ()
    strata: Sequence[str] = ()
    classes: Sequence[str] = ()
    """The true class of each row."""
    times: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Seconds, from any beginning."""
    contents: Sequence[str] = ()
    """What each row is about (a digest, an id): the same twice is a copy."""

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Sequence[int]) -> "ScoredRows":
        """These rows."""
        at = np.asarray(rows, np.int64)

        def of(column: Sequence[str]) -> list[str]:
            return [column[row] for row in at.tolist()] if column else []

        return replace(
            self,
            scores=self.scores[at],
            right=self.right[at],
            groups=of(self.groups),
            roles=[self.roles[row] for row in at.tolist()] if self.roles else [],
            strata=of(self.strata),
            classes=of(self.classes),
            times=self.times[at] if len(self.times) else self.times,
            contents=of(self.contents),
        )


def certify_rows(rows: ScoredRows, promise: Promise, *, key: str = "certify-0", min_gap_s: float = MIN_GAP_S) -> Ruling:
    """Thresholds from tuning rows, fixed-sequence tests on certification rows, whole groups where they are named.

    Args:
        rows: all there are.
        promise: r*, δ, whose labels.
        key: splits the rows by group where they have no roles, and draws rows of each group.
        min_gap_s: rows nearer in time need a group.

    Raises:
        RuleRefusalError: the rows cannot carry a certificate, whatever a test would say.
    """
    check_rows(rows, min_gap_s=min_gap_s)
    own = rows.groups or rows.contents or [f"row-{row}" for row in range(len(rows))]
    grouped = replace(rows, groups=own)
    tuning, certification = split_rows(grouped, key=key)
    for each, what in ((tuning, "tuning"), (certification, "certification")):
        if not len(each):
            raise RuleRefusalError(
                f"there are no {what} rows", reason="no_rows", fix=f"bring rows, or give some the role {what}"
            )
    chosen, used = _some(tuning, key), _drawn(certification, key)
    found = sequences(
        chosen.scores,
        chosen.right,
        groups=chosen.groups,
        strata=chosen.strata,
        coverages=DEFAULT_COVERAGES,
        risk=promise.risk,
    )
    outcomes = _tested(found, used, promise)
    made = ruling(outcomes, promise, hopeless=found.hopeless, n=len(used), accuracy=float(tuning.right.mean()))
    return with_warnings(_shown(made, used, outcomes), np.concatenate((tuning.right, used.right)))


def check_rows(rows: ScoredRows, *, min_gap_s: float = MIN_GAP_S) -> None:
    """Refuses rows that no certificate may rest on.

    Raises:
        RuleRefusalError: with a reason, and the way out.
    """
    if not len(rows):
        raise RuleRefusalError("there are no rows", reason="no_rows", fix="bring labelled rows")
    _check_scores(rows)
    check_times(rows.times, grouped=bool(rows.groups), min_gap_s=min_gap_s)
    check_roles(rows.groups, rows.roles, "group", "give every group one role")
    check_roles(rows.contents, rows.roles, "row content", "remove the copies, or give them one group and one role")
    _check_counted_once(rows)


def check_roles(names: Sequence[str], roles: Sequence[str], what: str, fix: str) -> None:
    """Refuses whatever stands under two roles.

    Raises:
        RuleRefusalError: something does.
    """
    if not names or not roles:
        return
    seen: dict[str, str] = {}
    shared = {
        name: (seen[name], role) for name, role in zip(names, roles, strict=True) if seen.setdefault(name, role) != role
    }
    if shared:
        name, (one, other) = min(shared.items())
        raise RuleRefusalError(
            f"{len(shared)} {what}(s) stand under two roles, {name[:60]!r} under {one} and {other}",
            reason="roles_overlap",
            fix=fix,
        )


def check_times(times: NDArray[np.float64], *, grouped: bool, min_gap_s: float) -> None:
    """Refuses times that are none, and rows close in time that no group ties together: frames of one event are not independent.

    Raises:
        RuleRefusalError: there are some.
    """
    if bad := int((~np.isfinite(times)).sum()):
        raise RuleRefusalError(
            f"{bad} of {len(times)} times are not numbers",
            reason="times_not_numbers",
            fix="write seconds, or leave the column out where every row has a group",
        )
    if grouped or not len(times):
        return
    close = int((np.diff(np.sort(times)) < min_gap_s).sum())
    if close:
        raise RuleRefusalError(
            f"{close} of {len(times)} rows follow another within {min_gap_s:g} s and have no group: frames of one event "
            "err together, and counted one by one they promise too much",
            reason="frames_ungrouped",
            fix="add a column that names the event or clip and pass it with --group, or lower --min-gap if they are independent",
        )


def _check_counted_once(rows: ScoredRows) -> None:
    """Refuses what stands under several groups of the roles that count: it would be taken for independent rows."""
    if not rows.contents or not rows.groups:
        return
    roles: Sequence[RowRole] = rows.roles or ["certification"] * len(rows)
    seen: dict[str, str] = {}
    columns = zip(rows.contents, rows.groups, roles, strict=True)
    twice = [name for name, group, role in columns if role != "other" and seen.setdefault(name, group) != group]
    if twice:
        raise RuleRefusalError(
            f"{len(set(twice))} row content(s) stand under several groups and would count as independent, "
            f"{min(twice)[:60]!r} among them",
            reason="copies_counted",
            fix="remove the copies, or give them one group",
        )


def _check_scores(rows: ScoredRows) -> None:
    bad = int((np.isnan(rows.scores) | np.isposinf(rows.scores)).sum())
    if bad:
        raise RuleRefusalError(
            f"{bad} of {len(rows)} scores are not numbers",
            reason="scores_not_numbers",
            fix="find out why the model gave none; a row that it refuses has the score -inf",
        )
    finite = rows.scores[np.isfinite(rows.scores)]
    if len(finite) and len(np.unique(finite)) == 1:
        raise RuleRefusalError(
            f"all {len(finite)} scores are {finite[0]:g}: no threshold can tell sure rows from unsure ones",
            reason="scores_constant",
            fix="pass the model's confidence with --score-col",
        )
    if not rows.right.any():
        raise RuleRefusalError(
            f"every one of {len(rows)} answers is wrong",
            reason="all_wrong",
            fix="see whether the column of correct answers is inverted, or the labels are in another order",
        )


def split_rows(rows: ScoredRows, *, key: str) -> tuple[ScoredRows, ScoredRows]:
    """Tuning and certification rows: by their own roles, else by a keyed hash of their groups."""
    roles: Sequence[str] = rows.roles or [role_of(group, key=key, shares=HELD_OUT) for group in rows.groups]
    check_roles(rows.contents, roles, "row content", "remove the copies, or give them one group")
    return (
        rows.take([row for row, role in enumerate(roles) if role == "tuning"]),
        rows.take([row for row, role in enumerate(roles) if role == "certification"]),
    )


def _some(rows: ScoredRows, key: str) -> ScoredRows:
    """At most as many rows a group as can certify: what is chosen by looks at groups as the certificate does."""
    return rows.take(some_per_group(rows.groups, key, GROUP_ROWS).tolist())


def _drawn(rows: ScoredRows, key: str) -> ScoredRows:
    """Of each stratum, as many rows a group as it certifies by."""
    names = np.asarray(rows.strata or [""] * len(rows), np.str_)
    drawn: list[int] = []
    for name in dict.fromkeys(names.tolist()):
        own = np.flatnonzero(names == name)
        groups = [rows.groups[row] for row in own.tolist()]
        drawn += own[some_per_group(groups, key, rows_a_group(groups))].tolist()
    return rows.take(sorted(drawn))


def _tested(found: Sequences, used: ScoredRows, promise: Promise) -> dict[str, Outcome]:
    return strata_sequences(
        used.scores,
        used.right,
        strata=used.strata or [""] * len(used),
        thresholds=found.ladders,
        risk=promise.risk,
        deltas=delta_parts(promise.delta, found.rows),
        coverages=found.coverages,
        groups=used.groups,
    )


def _shown(made: Ruling, used: ScoredRows, outcomes: dict[str, Outcome]) -> Ruling:
    """With what is only shown: kept accuracy by class, stratum and group, and calibration."""
    names = used.strata or [""] * len(used)
    limits = {name: outcome.threshold for name, outcome in outcomes.items()}
    own = [limits.get(name) for name in names]
    kept = np.asarray([limit is not None and score >= limit for score, limit in zip(used.scores, own, strict=True)])
    shown: list[Kept] = []
    for kind, column in (("class", used.classes), ("stratum", used.strata)):
        shown += kept_by(kind, column, kept, used.right) if column else []
    by_group = kept_by("group", used.groups, kept, used.right, least=_FEWEST_KEPT)
    bins = reliability(used.scores, used.right) if _are_probabilities(used.scores) else []
    return msgspec.structs.replace(
        made,
        kept=[*shown, *by_group[:GROUPS_SHOWN]],
        calibration_error=calibration_gap(bins) if bins else None,
        reliability=bins,
    )


def _are_probabilities(scores: NDArray[np.float64]) -> bool:
    return bool(((scores >= 0.0) & (scores <= 1.0)).all())
