"""How far a deployed model is from the one it was made of, on real inputs. Decides nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider_engine.session import Session
from outrider_export.data import Tensors
from outrider_wire.calibration import expected_calibration_error, fit_temperature, softmax
from outrider_wire.certificate import upper_bound
from outrider_wire.groups import one_per_group
from outrider_wire.manifest import Outputs

_ROWS = 128
_FAR = float(np.finfo(np.float32).max)
"""Stands for infinity and NaN: a manifest is JSON."""
_ALPHA = 0.05
"""The interval of the accuracy is a 95 % one."""


def run_rows(session: Session, tensors: Tensors, *, apart: bool = False) -> dict[str, NDArray[Any]]:
    """All outputs of all rows, by name; one by one where the model takes no more.

    ``apart``: one by one too, as a device does where the rows beside it change what a model says of one
    (`outrider_engine.model.scales_by_batch`).
    """
    one_by_one = apart or any(fact.shape and fact.shape[0] == 1 for fact in session.inputs)
    found = [session.run(batch) for batch in tensors.batches(1 if one_by_one else _ROWS)]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def parity(
    reference: dict[str, NDArray[Any]],
    other: dict[str, NDArray[Any]],
    labels: NDArray[np.int64],
    outputs: Outputs,
    *,
    groups: Sequence[str] = (),
) -> dict[str, float]:
    """What `outrider_wire.manifest.Variant` says of a variant.

    ``max_abs`` and ``mean_abs`` difference of a logit, ``mean_share``, the latter as a share of the largest, ``agreement`` of
    the answers, ``accuracy`` of ``other`` on the labelled rows; ``accuracy_low`` and ``accuracy_high``, its exact 95 % interval
    (Clopper and Pearson 1934) on one row of each of ``groups``, ``n`` rows in all; ``calibration_error`` after a temperature
    fitted on the same rows (Guo et al. 2017); with a support output ``support_correlation`` and
    ``support_max_abs``, with a deferral score the same of it, and
    with an embedding the largest and mean cosine distance of a row's two, ``embedding_max`` and ``embedding_mean``.
    """
    apart = np.abs(reference[outputs.logits].astype(np.float64) - other[outputs.logits])
    figures = {
        "max_abs": apart.max(),
        "mean_abs": apart.mean(),
        "mean_share": apart.mean() / max(float(np.abs(reference[outputs.logits]).max()), 1e-6),
        "agreement": (reference[outputs.logits].argmax(1) == other[outputs.logits].argmax(1)).mean(),
        **_against_labels(other[outputs.logits], labels, groups),
    }
    for kind, name in (("support", outputs.support), ("deferral", outputs.deferral)):
        if name is not None:
            a, b = reference[name], other[name]
            figures[f"{kind}_correlation"] = _correlation(a, b)
            figures[f"{kind}_max_abs"] = np.abs(a - b).max()
    if outputs.embedding is not None:
        away = cosine_distances(reference[outputs.embedding], other[outputs.embedding])
        figures["embedding_max"], figures["embedding_mean"] = away.max(), away.mean()
    return {name: round(float(value), 6) if np.isfinite(value) else _FAR for name, value in figures.items()}


def interval(right: int, n: int, alpha: float = _ALPHA) -> tuple[float, float]:
    """The exact two-sided interval, at 1 − ``alpha``, of a share of which ``right`` of ``n`` draws are (Clopper and Pearson 1934)."""
    return 1.0 - upper_bound(n - right, n, alpha / 2), upper_bound(right, n, alpha / 2)


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's; 1 where one of them does not vary, and 0 where one is not finite: infinity in 16 bits is no distance."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 1.0


def _against_labels(logits: NDArray[Any], labels: NDArray[np.int64], groups: Sequence[str]) -> dict[str, float]:
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        return {"accuracy": 0.0}
    right, truth = logits[known].argmax(1) == labels[known], labels[known]
    alone = one_per_group([groups[row] for row in known.tolist()], "parity") if groups else np.arange(len(known))
    low, high = interval(int(right[alone].sum()), len(alone))
    said = softmax(logits[known], fit_temperature(logits[known], truth))
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "n": len(alone),
        "calibration_error": expected_calibration_error(said, truth),
    }


def cosine_distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """1 − cosine of each row of ``a`` (n, d) and the same of ``b``; 1 where one of them is zero."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(1.0 - (x * y).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), np.float64)
