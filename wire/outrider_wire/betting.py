"""Evidence by betting: a capital that can only grow, on average, when a claim is true. Pure arithmetic; knows no models.

Somebody who doubts that "the mean gain is at most zero" bets on each independent gain in turn (Waudby-Smith & Ramdas 2024,
arXiv 2010.09686). While the doubted claim holds, the capital is a non-negative supermartingale, so that it reaches 1/δ with
probability at most δ (Ville's inequality): 1/capital is a p-value, and there is no assumption on how gains are distributed.

What it is for: rows of one group (questions about one picture, frames of one clip) are not independent, groups are. The
gain of a *group* is a bounded sum over its rows, however they hang together, so that whole groups can certify where an exact
binomial test must throw all of their rows but one away.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

FRACTION = 0.95
"""Share of the largest bet that no gain can ruin. Measured (demo task, four rows a group): a smaller one, or a mixture over
several, certifies less in every draw; gains of groups vary so little that the best bet lies beyond the largest admissible one."""


def capital(gains: ArrayLike, worst: float) -> float:
    """The capital after betting on every gain, from 1; infinite where it overflows.

    Args:
        gains: (n,) independent, each at least −``worst``.
        worst: the largest loss that a single gain could be, whether or not any is; positive.

    Raises:
        ValueError: a gain is below −``worst``, or not a number.
    """
    values = np.asarray(gains, np.float64)
    if not (values >= -worst * (1 + 1e-9)).all():
        raise ValueError(f"a gain is not at least {-worst:g}")
    logarithm = float(np.log1p(FRACTION * np.maximum(values / worst, -1.0)).sum())
    return math.exp(logarithm) if logarithm < 700 else math.inf


def p_value(gains: ArrayLike, worst: float) -> float:
    """How surprising the gains are if their mean is at most zero: min(1, 1 / capital)."""
    return min(1.0, 1.0 / max(capital(gains, worst), 1.0))


def group_sums(values: ArrayLike, groups: NDArray[np.int64], rows_a_group: int) -> NDArray[np.float64]:
    """(number of groups,) the sum of each group's values over ``rows_a_group``, of values (n,) and group numbers (n,) from 0.

    Dividing by the same number everywhere weights rows alike, whatever the size of their group.
    """
    count = int(groups.max(initial=-1)) + 1
    return np.bincount(groups, weights=np.asarray(values, np.float64), minlength=count) / rows_a_group
