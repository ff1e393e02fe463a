"""What one round may learn from: which rows, with whose distribution as the target. Trains nothing and promotes nothing.

D1 is what the device escalated and the large model answered surely; the target is the large model's re-calibrated distribution.
D2, the rehearsal of what the deployed model knew, cannot be what the device kept: that never reaches the cloud. It is what the
store has of the train role that the deployed rule accepts, imported rows and audits; the target is the deployed model's own
distribution. Labelled rows of the train role are rehearsed by their labels. The deferral score is learnt from what the deployed
release itself sent, escalations and audits alike: it was trained on none of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_cloud.learning.asking import Rows
from outrider_cloud.learning.library import Shelf
from outrider_cloud.learning.teacher import Confidence, calibrated, choose_confidence, tempered
from outrider_engine.model import Model
from outrider_export.asking import Said, ask
from outrider_export.data import Table, Tensors
from outrider_export.distil import Taught
from outrider_export.support import FEWEST_ROWS
from outrider_wire.acceptance import accepted
from outrider_wire.task import InputPart


class Counts(Struct, kw_only=True, frozen=True):
    """How many rows there were of each kind."""

    train: int
    escalated: int
    """Different inputs of the train role that the device refused and the large model answered."""
    other_large_model: int
    """More of them, left out: another large model than today's answered."""
    confident: int
    """D1."""
    rehearsed: int
    """D2."""
    labelled: int
    tuning: int
    tuning_refused: int
    gate: int
    gate_groups: int
    certification: int


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a student is taught, prepared for it."""

    unsure: Taught
    sure: Taught
    labelled: Tensors
    fresh: Taught
    """Rows that the deployed model was not trained on, each with what today's large model says of it."""
    known: Table | None
    """What the support distance may be fitted on: rows of the device's world that were not escalated; None: too few."""


def measure_teacher(
    *, large: Said, deployed: Said, model: Model, labels: NDArray[np.int64], accuracy: float, least_rows: int
) -> tuple[Confidence, int]:
    """From which confidence on the large model may teach, and on how many refused tuning rows that was asked.

    ``large`` and ``deployed`` are what both models say of the tuning rows, ``labels`` (n,) the truth.
    """
    refused = ~accepted(model.manifest.acceptance, deployed.signals)
    temperature = calibrated(large.probabilities, labels)
    chosen = choose_confidence(
        probabilities=tempered(large.probabilities[refused], temperature),
        labels=labels[refused],
        temperature=temperature,
        accuracy=accuracy,
        least_rows=least_rows,
    )
    return chosen, int(refused.sum())


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Row numbers of the train shelf."""

    confident: NDArray[np.int64]
    fresh: NDArray[np.int64]
    escalated: int
    other_large_model: int


def choose_rows(shelf: Shelf, *, large_model: str, deployed: str, confidence: Confidence) -> Chosen:
    """D1: different inputs, refused by the device, answered surely by today's large model (or by one that gave no name).

    And the fresh ones: different inputs that the bundle with the digest ``deployed`` sent, and today's large model answered.
    """
    answered = np.isfinite(shelf.teacher).all(axis=1)
    rows = distinct(shelf.table, np.flatnonzero(answered & shelf.escalated))
    own = rows[_todays(shelf, rows, large_model)]
    sure = tempered(shelf.teacher[own], confidence.temperature).max(axis=1) >= confidence.threshold
    sent = np.array([model == deployed for model in shelf.small_models], np.bool_)
    fresh = distinct(shelf.table, np.flatnonzero(answered & sent))
    return Chosen(
        confident=own[sure],
        fresh=fresh[_todays(shelf, fresh, large_model)],
        escalated=len(own),
        other_large_model=len(rows) - len(own),
    )


def _todays(shelf: Shelf, rows: NDArray[np.int64], large_model: str) -> NDArray[np.bool_]:
    return np.array([shelf.teacher_models[row] in ("", large_model) for row in rows], np.bool_)


def distinct(table: Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of these rows, the last one of each different input: what was asked twice is no further evidence."""
    seen: dict[tuple[int, ...], int] = {}
    for row in rows:
        seen[tuple(int(places[row]) for places in table.index.values())] = int(row)
    return np.sort(np.array(list(seen.values()), np.int64))


def make_lessons(
    shelf: Shelf, *, chosen: Chosen, confidence: Confidence, model: Model, bounds: Sequence[InputPart]
) -> Lessons:
    """All targets, from the train shelf and the deployed model."""
    tensors = Rows(table=shelf.table, bounds=bounds).tensors(model)
    stayed = np.flatnonzero(~shelf.escalated)
    rule = model.manifest.acceptance
    own = ask(model, tensors.take(stayed), shelf.table.take(stayed).strata(rule.strata))
    kept = accepted(rule, own.signals)
    unsure, fresh = (
        Taught(tensors=tensors.take(rows), probabilities=tempered(shelf.teacher[rows], confidence.temperature))
        for rows in (chosen.confident, chosen.fresh)
    )
    return Lessons(
        unsure=unsure,
        sure=Taught(tensors=tensors.take(stayed[kept]), probabilities=own.probabilities[kept]),
        labelled=tensors.take(np.flatnonzero(tensors.labels >= 0)),
        fresh=fresh,
        known=_known(shelf.table.take(stayed)),
    )


def _known(table: Table) -> Table | None:
    return table if len(set(table.groups)) >= FEWEST_ROWS else None
