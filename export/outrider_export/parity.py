"""How far a deployed model is from the one it was made of, on real inputs. Decides nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider_engine.session import Session
from outrider_export.data import Tensors
from outrider_wire.manifest import Outputs

_ROWS = 128


def run_rows(session: Session, tensors: Tensors) -> dict[str, NDArray[Any]]:
    """All outputs of all rows, by name."""
    found = [session.run(batch) for batch in tensors.batches(_ROWS)]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def parity(
    reference: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]], labels: NDArray[np.int64], outputs: Outputs
) -> dict[str, float]:
    """What `outrider_wire.manifest.Variant` says of a variant.

    ``max_abs`` and ``mean_abs`` difference of a logit, ``agreement`` of the answers, ``accuracy`` of ``other`` on the
    labelled rows, with a support output ``support_correlation`` and ``support_max_abs``, with a deferral score the same of it, and
    with an embedding the largest and mean cosine distance of a row's two, ``embedding_max`` and ``embedding_mean``.
    """
    apart = np.abs(reference[outputs.logits].astype(np.float64) - other[outputs.logits])
    answers = other[outputs.logits].argmax(1)
    known = labels >= 0
    figures = {
        "max_abs": apart.max(),
        "mean_abs": apart.mean(),
        "agreement": (reference[outputs.logits].argmax(1) == answers).mean(),
        "accuracy": (answers[known] == labels[known]).mean() if known.any() else 0.0,
    }
    for kind, name in (("support", outputs.support), ("deferral", outputs.deferral)):
        if name is not None:
            a, b = reference[name], other[name]
            figures[f"{kind}_correlation"] = np.corrcoef(a, b)[0, 1] if a.std() and b.std() else 1.0
            figures[f"{kind}_max_abs"] = np.abs(a - b).max()
    if outputs.embedding is not None:
        away = cosine_distances(reference[outputs.embedding], other[outputs.embedding])
        figures["embedding_max"], figures["embedding_mean"] = away.max(), away.mean()
    return {name: round(float(value), 6) for name, value in figures.items()}


def cosine_distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """1 − cosine of each row of ``a`` (n, d) and the same of ``b``; 1 where one of them is zero."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(1.0 - (x * y).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), np.float64)
