"""What the large model may teach: its calibration, and from which confidence on its answers are good enough. Pure arithmetic."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_wire.calibration import fit_temperature, softmax

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 0.999)
"""τ_L is one of these, fixed in advance."""
_LEAST = 1e-9
"""Smallest probability before logarithms."""

Probabilities = NDArray[np.float64]


class Confidence(Struct, kw_only=True, frozen=True):
    """From where on the large model's answers are learnt from, and how it was measured."""

    threshold: float
    """τ_L: least calibrated confidence of an answer that is learnt from."""
    accuracy: float
    """Of the confident answers, on tuning rows that the deployed model refuses."""
    rows: int
    """How many confident answers the accuracy was measured on."""
    temperature: float
    """What the large model's own distribution is tempered by, fitted on tuning rows."""


def tempered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Distributions (n, k) made softer (temperature > 1) or sharper: softmax of their logarithms over ``temperature``."""
    return softmax(np.log(np.maximum(probabilities, _LEAST)), temperature)


def calibrated(probabilities: Probabilities, labels: NDArray[np.int64]) -> float:
    """The temperature that makes distributions (n, k) most likely for the labels (n,)."""
    return fit_temperature(np.log(np.maximum(probabilities, _LEAST)), labels)


def choose_confidence(
    *,
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    temperature: float,
    accuracy: float,
    least_rows: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Confidence:
    """The least of ``thresholds`` at which the large model is right at least ``accuracy`` of the time.

    A constant threshold starves a weak small model of examples and floods a strong one with errors, so it is measured. Where
    none is good enough the most accurate one is returned with its accuracy, for the round to be refused by.

    Args:
        probabilities: (n, k) tempered, of the tuning rows that the deployed model refuses.
        labels: (n,) their true labels.
        temperature: what they were tempered by.
        accuracy: what is asked for.
        least_rows: an accuracy measured on fewer confident rows counts for nothing, unless no threshold has more.
        thresholds: the grid, rising.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    measured = [_measured(sure >= each, right, each, temperature) for each in thresholds]
    usable = [each for each in measured if each.rows >= least_rows] or measured[:1]
    good = [each for each in usable if each.accuracy >= accuracy]
    return good[0] if good else max(usable, key=lambda each: each.accuracy)


def _measured(kept: NDArray[np.bool_], right: NDArray[np.bool_], threshold: float, temperature: float) -> Confidence:
    rows = int(kept.sum())
    share = float(right[kept].mean()) if rows else 0.0
    return Confidence(threshold=threshold, accuracy=share, rows=rows, temperature=temperature)
