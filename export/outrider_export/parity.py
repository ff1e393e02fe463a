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
    labelled rows, and with a support output ``support_correlation`` and ``support_max_abs``.
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
    if outputs.support is not None:
        a, b = reference[outputs.support], other[outputs.support]
        figures["support_correlation"] = np.corrcoef(a, b)[0, 1] if a.std() and b.std() else 1.0
        figures["support_max_abs"] = np.abs(a - b).max()
    return {name: round(float(value), 6) for name, value in figures.items()}
