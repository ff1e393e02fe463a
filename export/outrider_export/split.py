"""A labelled data set by the role of its groups, and what that is good for. Trains nothing and looks at no row's content."""

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from outrider_export.data import Table
from outrider_export.plan import expected
from outrider_export.promises import forecast, strata_sentences
from outrider_wire.certificate import DEFAULT_COVERAGES, START_ERRORS, can_test, grouped_items_needed
from outrider_wire.errors import RuleRefusalError
from outrider_wire.groups import usable_rows
from outrider_wire.roles import ROLES, Role, Shares, role_of
from outrider_wire.task import Task

Tables = Mapping[Role, Table]
NEEDED: tuple[Role, ...] = ("train", "tuning", "certification", "test")
FEW = 10
"""Rows of a label below which a model has hardly seen it."""
ACCURACY = 0.88
"""Of the model that a forecast supposes, before there is one."""


class Forecast(Struct, kw_only=True, frozen=True):
    """What a data set is good for, said before anything is trained."""

    rows: dict[str, int]
    """Role → rows."""
    groups: dict[str, int]
    can_certify: bool
    sentences: list[str]


def split(table: Table, *, key: str, shares: Shares) -> dict[Role, Table]:
    """The labelled rows by the role of their group.

    Raises:
        RuleRefusalError: one of the `NEEDED` roles gets no rows.
    """
    rows: dict[Role, list[int]] = {role: [] for role in ROLES}
    for row, (group, label) in enumerate(zip(table.groups, table.labels, strict=True)):
        if label >= 0:
            rows[role_of(group, key=key, shares=shares)].append(row)
    if empty := [role for role in NEEDED if not rows[role]]:
        raise RuleRefusalError(
            f"of {len(table)} rows none falls to the {empty[0]} role",
            reason="too_few_rows",
            fix="bring more labelled rows: some hundreds at least",
        )
    return {role: table.take(np.asarray(mine, np.int64)) for role, mine in rows.items()}


def foresee(tables: Tables, task: Task) -> Forecast:
    """Rows a role, and what the certification rows can certify at best."""
    groups: dict[str, int] = {role: len(set(table.groups)) for role, table in tables.items()}
    risk, names = task.policy.target_risk, tables["certification"].groups
    n, most = usable_rows(names)
    possible = can_test(names, risk, task.delta, DEFAULT_COVERAGES)
    sentences = [
        forecast(n, risk, task.delta, rows_a_group=most),
        f"items needed: {grouped_items_needed(risk, task.delta, 0, most)} kept certification rows without an error, or "
        f"{grouped_items_needed(risk, task.delta, START_ERRORS, most)} with {START_ERRORS} errors",
        f"for scale: {_expected(n, risk, task.delta, most)}",
    ]
    sentences += _rare(tables["train"], task)
    if task.strata:
        sentences.append(strata_sentences([stratum.name for stratum in task.strata]))
    if not possible:
        sentences.append(
            "WARNING: nothing can be certified with this data, so every input will escalate; "
            "bring more, or promise less with --risk"
        )
    return Forecast(
        rows={role: len(table) for role, table in tables.items()},
        groups=groups,
        can_certify=possible,
        sentences=sentences,
    )


def _rare(train: Table, task: Task) -> list[str]:
    """A warning of the labels that there is hardly anything to learn from."""
    found = np.bincount(train.labels, minlength=len(task.labels))
    few = [f"{label} ({n})" for label, n in zip(task.labels, found.tolist(), strict=True) if n < FEW]
    if not few:
        return []
    return [
        f"WARNING: fewer than {FEW} rows to train on of {', '.join(few[:8])}{' and others' if len(few) > 8 else ''}: "
        "the small model will hardly know them; bring more"
    ]


def _expected(n: int, risk: float, delta: float, rows_a_group: int) -> str:
    found = [
        expected(size, risk=risk, delta=delta, accuracy=ACCURACY, rows_of_a_group=rows_a_group) for size in (n, 2 * n)
    ]
    kept = [f"with {each.n} rows {each.coverage:.0%} (nothing in {each.nothing:.0%} of draws)" for each in found]
    return f"a calibrated model that is right {ACCURACY:.0%} of the time keeps, on average of simulated draws, {', '.join(kept)}"
