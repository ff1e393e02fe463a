"""How the large model's distribution and the small model's become one answer. Pure arithmetic over a task's labels.

``shunt`` is Data Shunt's: the large model alone answers what the device refused. ``soft-prune`` is the closed form of Data
Shunt+'s prompt pruning (arXiv 2406.15471) for a model that gives a distribution: ``p(y|x) ∝ p_L(y|x) · p_S(y|x)^λ``.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_LAMBDA = 1.5
DEFAULT_LAMBDA = 0.2
"""Used until λ is fitted on tuning data. Where the large model is much the better, fits lie between 0.05 and 0.4; this gains
nothing there and loses nothing. Where the two complement each other, fits are larger: so fit it."""

_FLOOR = 1e-6
"""Least probability before logarithms: the small model may make a label unlikely, never rule it out."""

Strategy = Callable[[Sequence[float], Sequence[float], float], list[float]]
"""(large distribution, small distribution, λ) → the answer's distribution."""


def shunt(large: Sequence[float], small: Sequence[float], strength: float) -> list[float]:
    """The large model's distribution as it is."""
    return list(large)


def soft_prune(large: Sequence[float], small: Sequence[float], strength: float) -> list[float]:
    """The product ``p_L · p_S^λ``, normalised."""
    return [float(p) for p in _fused(np.asarray(large), np.asarray(small), strength)]


STRATEGIES: Mapping[str, Strategy] = {"shunt": shunt, "soft-prune": soft_prune}


def fit_lambda(large: NDArray[np.float64], small: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The λ in [0, 1.5] (steps of 0.05) under which the product gives the labels the greatest likelihood.

    Args:
        large: (n, labels) probabilities of the large model on tuning rows that the device would escalate.
        small: (n, labels) those of the small model.
        labels: (n,) indices of the true labels.
    """
    rows = np.arange(len(labels))
    grid = np.round(np.arange(0.0, MAX_LAMBDA + 1e-9, 0.05), 2)

    def loss(strength: float) -> float:
        return float(-np.log(np.maximum(_fused(large, small, strength)[rows, labels], _FLOOR)).mean())

    return float(min(grid, key=loss))


def _fused(large: NDArray[np.float64], small: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    product = np.maximum(large, _FLOOR) * np.maximum(small, _FLOOR) ** strength
    fused: NDArray[np.float64] = product / product.sum(axis=-1, keepdims=True)
    return fused
