"""The audits of a task, as evidence about one small model's answers. Functions of a connection; knows no threshold and no test."""

import math
from collections.abc import Sequence

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store.schema import examples


class Audit(Struct, kw_only=True, frozen=True):
    """One audited answer of a device."""

    device: str
    input: str
    group: str
    """What it is correlated with: of one group, one audit is independent evidence."""
    at_ms: int
    """When it came, UTC."""
    small_model: str
    """Digest of the bundle that answered."""
    score: float
    """Of a rule that scores by the largest probability; −inf where it refuses the input by support."""
    probabilities: list[float]
    """The device's, in the order of the task's labels: for a rule that makes another score of them."""
    supported: bool
    loss: int
    """1: the large model says something else, or never answered."""
    probability: float
    """With which it was sampled."""


_HERE = examples.c
_AUDITS = sa.select(
    _HERE.device,
    _HERE.input,
    _HERE.group,
    _HERE.created_ms,
    _HERE.small_model,
    _HERE.small_label,
    _HERE.small_probabilities,
    _HERE.teacher_label,
    _HERE.why,
    _HERE.audit,
).where(_HERE.source == "audit")


def audits(
    connection: sa.Connection, *, task: str, small_model: str | None = None, teacher_model: str | None = None
) -> list[Audit]:
    """A task's audits in the order in which they ended.

    Args:
        task: its name.
        small_model: only answers of the bundle with that digest.
        teacher_model: only what that large model judged, and what no model answered.
    """
    query = _AUDITS.where(_HERE.task == task).order_by(_HERE.id)
    if small_model is not None:
        query = query.where(_HERE.small_model == small_model)
    if teacher_model is not None:
        query = query.where(sa.or_(_HERE.teacher_model == teacher_model, _HERE.teacher_model.is_(None)))
    return [
        Audit(
            device=row.device or "",
            input=row.input or "",
            group=row.group,
            at_ms=row.created_ms,
            small_model=row.small_model or "",
            score=_score(row.why, row.small_probabilities),
            probabilities=row.small_probabilities or [],
            supported=row.why != "unsupported",
            loss=int(row.teacher_label != row.small_label),
            probability=row.audit,
        )
        for row in connection.execute(query)
    ]


def one_a_group(found: Sequence[Audit]) -> list[Audit]:
    """The first audit of each group: chosen without looking at any outcome."""
    first: dict[str, Audit] = {}
    for audit in found:
        first.setdefault(audit.group, audit)
    return list(first.values())


def _score(why: str, probabilities: Sequence[float] | None) -> float:
    return max(probabilities) if probabilities and why != "unsupported" else -math.inf
