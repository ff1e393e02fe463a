"""How sure a model is of each row, by name; the higher, the surer."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _max_probability(logits: Floats, probabilities: Floats) -> Floats:
    return np.asarray(probabilities.max(axis=1), np.float64)


def _margin(logits: Floats, probabilities: Floats) -> Floats:
    top = np.sort(probabilities, axis=1)
    return np.asarray(top[:, -1] - top[:, -2], np.float64)


def _entropy(logits: Floats, probabilities: Floats) -> Floats:
    return np.asarray((probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1), np.float64)


def _energy(logits: Floats, probabilities: Floats) -> Floats:
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)), np.float64)


SCORES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "max_probability": _max_probability,
    "margin": _margin,
    "entropy": _entropy,
    "energy": _energy,
}
