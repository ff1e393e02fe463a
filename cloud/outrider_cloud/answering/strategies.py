"""How the large model is asked and how its distribution and the small model's become one answer. Pure, over a task's labels.

``shunt`` is Data Shunt's: the large model alone answers what the device refused. The others are Data Shunt+'s (arXiv
2406.15471), closed forms where the large model gives a distribution:

* ``soft-prune``: ``p(y|x) ∝ p_L(y|x) · p_S(y|x)^λ``, or the small model's distribution in the prompt;
* ``hard-prune``: only the labels of the small model's conformal set are asked about;
* ``transfer``: the sub-tasks that the device has answered are told, and only the rest is asked.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

MAX_LAMBDA = 1.5
DEFAULT_LAMBDA = 0.2
"""Used until λ is fitted on tuning data. Where the large model is much the better, fits lie between 0.05 and 0.4; this gains
nothing there and loses nothing. Where the two complement each other, fits are larger: so fit it."""
LEAST_CAPTURED = 0.95
"""A strategy that computes with the large model's distribution needs at least this share of its mass to have been seen."""
LEAST_INSIDE = 0.5
"""Where the large model puts less than this on the candidates, the small model has pruned the wrong labels."""

_FLOOR = 1e-6
"""Least probability before logarithms: the small model may make a label unlikely, never rule it out."""

Distribution = Sequence[float]


class Terms(Struct, kw_only=True, frozen=True):
    """What was fitted or chosen for one task."""

    strength: float = DEFAULT_LAMBDA
    """λ of ``soft-prune``."""
    keep: float = 0.0
    """``hard-prune``: least probability that makes a label a candidate, by `fit_conformal`; 0 keeps every label."""
    prune_in: Literal["product", "prompt"] = "product"
    """Where ``soft-prune`` puts the small model's distribution."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One row of the table."""

    combine: Callable[[Distribution, Distribution, Terms], list[float]]
    """(large distribution, small distribution, terms) → the answer's distribution."""
    candidates: Callable[[Distribution, Terms], list[int] | None] = lambda _small, _terms: None
    """Indices of the labels to ask about; None: all."""
    computes: Callable[[Terms], bool] = lambda _terms: False
    """Whether it computes with the large model's distribution; else the arg-max is enough."""
    tells_small: Callable[[Terms], bool] = lambda _terms: False
    """Whether a language model is told the small model's distribution."""
    tells_facts: bool = False


def shunt(large: Distribution, small: Distribution, terms: Terms) -> list[float]:
    """The large model's distribution as it is."""
    return list(large)


def soft_prune(large: Distribution, small: Distribution, terms: Terms) -> list[float]:
    """The product ``p_L · p_S^λ``, normalised; with the distribution in the prompt the large model has done it already."""
    if terms.prune_in == "prompt":
        return list(large)
    return [float(p) for p in _fused(np.asarray(large), np.asarray(small), terms.strength)]


def hard_prune(large: Distribution, small: Distribution, terms: Terms) -> list[float]:
    """The large model's distribution restricted to the small model's conformal set, normalised.

    Falls back to all labels where the set is empty, and where the large model puts less than half its mass inside. A
    model that scores labels one by one has scored only the candidates; it says nothing about the others, so that only
    the first fallback is left. Deleting labels lost accuracy wherever it was measured: it buys cheaper calls.
    """
    kept = conformal_set(small, terms)
    if kept is None:
        return list(large)
    inside = sum(large[k] for k in kept)
    if inside < LEAST_INSIDE:
        return list(large)
    restricted = [0.0] * len(large)
    for k in kept:
        restricted[k] = large[k] / inside
    return restricted


def conformal_set(small: Distribution, terms: Terms) -> list[int] | None:
    """Indices of the labels that the small model gives at least ``keep``; None where that is none or all of them."""
    kept = [k for k, p in enumerate(small) if p >= terms.keep]
    return kept if 0 < len(kept) < len(small) else None


STRATEGIES: Mapping[str, Strategy] = {
    "shunt": Strategy(combine=shunt),
    "soft-prune": Strategy(
        combine=soft_prune,
        computes=lambda terms: terms.prune_in == "product",
        tells_small=lambda terms: terms.prune_in == "prompt",
    ),
    "hard-prune": Strategy(combine=hard_prune, candidates=conformal_set, computes=lambda _terms: True),
    "transfer": Strategy(combine=shunt, tells_facts=True),
}


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


def fit_conformal(probabilities: NDArray[np.float64], labels: NDArray[np.int64], alpha: float) -> float:
    """The ``keep`` under which the candidates hold the true label with probability at least 1 − alpha.

    Split-conformal with the score 1 − p(true label) (arXiv 2107.07511, section 1): the ⌈(n+1)(1−alpha)⌉-th smallest score of
    exchangeable rows bounds the next one's. It holds for rows drawn like these: fit it on tuning rows that the device would
    escalate, one a group, since those are what it is used on. With fewer than 1/alpha − 1 rows nothing can be left out: 0.

    Args:
        probabilities: (n, labels) of the small model.
        labels: (n,) indices of the true labels.
        alpha: tolerated share of inputs whose true label is not among the candidates.
    """
    n = len(labels)
    rank = math.ceil((n + 1) * (1.0 - alpha) - 1e-9)
    if rank > n:
        return 0.0
    of_label = np.sort(probabilities[np.arange(n), labels])[::-1]
    return float(of_label[rank - 1])


def _fused(large: NDArray[np.float64], small: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    product = np.maximum(large, _FLOOR) * np.maximum(small, _FLOOR) ** strength
    fused: NDArray[np.float64] = product / product.sum(axis=-1, keepdims=True)
    return fused
