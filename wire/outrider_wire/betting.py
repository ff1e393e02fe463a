"""Evidence by betting: a capital that can only grow, on average, when a claim is true. Pure arithmetic; knows no models.

Somebody who doubts that "the mean gain is at most zero" bets on each independent gain in turn (Waudby-Smith & Ramdas 2024,
arXiv 2010.09686). While the doubted claim holds, the capital is a non-negative supermartingale, so that it reaches 1/δ with
probability at most δ (Ville's inequality): 1/capital is a p-value, and there is no assumption on how gains are distributed.

What it is for: rows of one group (questions about one picture, frames of one clip) are not independent, groups are. The
gain of a *group* is a bounded sum over its rows, however they hang together, so that whole groups can certify where an exact
binomial test must throw all of their rows but one away.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOLD = (0.95,)
"""The whole capital bet at this share of the largest bet that no gain can ruin. Measured for sums over four rows a group (demo
task): smaller bets, or a mixture of several, certify less in every draw. Such sums vary so little that the best bet lies
beyond the largest admissible one."""
SPREAD = (0.15, 0.3, 0.5, 0.7, 0.95)
"""The capital shared out over bets of these sizes: where a single loss can take most of a bold bet, and the best size is not
known in advance. Costs at most ln 5 of the best one's logarithm."""


def capital(gains: ArrayLike, worst: float, shares: Sequence[float] = BOLD) -> float:
    """The capital after betting on every gain, from 1; infinite where it overflows.

    Args:
        gains: (n,) independent, each at least −``worst``.
        worst: the largest loss that a single gain could be, whether or not any is; positive.
        shares: of the largest admissible bet, each with an equal part of the capital; fixed in advance.

    Raises:
        ValueError: a gain is below −``worst``, or not a number.
    """
    values = np.asarray(gains, np.float64)
    if not (values >= -worst * (1 + 1e-9)).all():
        raise ValueError(f"a gain is not at least {-worst:g}")
    scaled = np.maximum(values / worst, -1.0)
    logarithms = [float(np.log1p(share * scaled).sum()) for share in shares]
    return sum(math.exp(each) if each < 700 else math.inf for each in logarithms) / len(shares)


def p_value(gains: ArrayLike, worst: float, shares: Sequence[float] = BOLD) -> float:
    """How surprising the gains are if their mean is at most zero: min(1, 1 / capital)."""
    return min(1.0, 1.0 / max(capital(gains, worst, shares), 1.0))


def group_sums(values: ArrayLike, groups: NDArray[np.int64], rows_a_group: int) -> NDArray[np.float64]:
    """(number of groups,) the sum of each group's values over ``rows_a_group``, of values (n,) and group numbers (n,) from 0.

    Dividing by the same number everywhere weights rows alike, whatever the size of their group.
    """
    count = int(groups.max(initial=-1)) + 1
    return np.bincount(groups, weights=np.asarray(values, np.float64), minlength=count) / rows_a_group
