"""What counts of devices prove. Pure arithmetic: knows no device, no clock and no plan.

Rates are watched while the counts grow, look after look, so that a bound of one look would be exceeded by chance sooner or later. The
evidence is therefore a mixture of likelihood ratios, which is a non-negative supermartingale as long as the true rate keeps within the
tolerated one: by Ville's inequality it ever reaches 1/α with probability at most α (Robbins 1970, doi:10.1214/aoms/1177696786; Ville 1939).
A bound for people, of one look, is Clopper and Pearson's (1934).
"""

import math
from collections.abc import Sequence

import numpy as np

from outrider_wire.certificate import binomial_tail, upper_bound

EXACT_DEVICES = 60
"""Up to so many devices in all, ranks are compared exactly; above, by the normal approximation."""
_HALVINGS = 40


def lower_rate(bad: int, n: int, confidence: float) -> float:
    """The rate that the true one exceeds, at ``confidence``, given ``bad`` of ``n`` (Clopper & Pearson, one-sided); 0 without any."""
    return 1.0 - upper_bound(n - bad, n, 1.0 - confidence) if bad else 0.0


def upper_rate(bad: int, n: int, confidence: float) -> float:
    """The rate that the true one stays below, at ``confidence`` (Clopper & Pearson, one-sided); 1 without devices."""
    return upper_bound(bad, n, 1.0 - confidence) if n else 1.0


def evidence(bad: int, n: int, rate: float) -> float:
    """How strongly ``bad`` of ``n`` devices speak for a rate above ``rate``: the mean likelihood ratio over the rates above it; 0 without
    a fault.

    ∫ p^k (1−p)^(n−k) dp/p / ln(1/r), p from r to 1, over r^k (1−r)^(n−k). Its mean is at most 1 when the true rate is at most ``rate``.
    The weight 1/p counts every doubling of the rate alike; against all rates alike it needs a fault less from 20 devices on, and never
    one more.
    """
    tail = binomial_tail(bad - 1, n, rate) if bad else 0.0  # P(Beta(k, n−k+1) > r)
    if tail <= 0.0:
        return 0.0
    log_beta = math.lgamma(bad) + math.lgamma(n - bad + 1) - math.lgamma(n + 1)
    log = log_beta + math.log(tail) - math.log(-math.log(rate)) - bad * math.log(rate) - (n - bad) * math.log1p(-rate)
    return math.exp(min(log, 700.0))


def exceeds(bad: int, n: int, rate: float, *, alpha: float, devices: int) -> bool:
    """Whether the rate is above the tolerated one, wrongly with probability at most ``alpha`` over all looks together.

    Args:
        bad: Distinct devices with the fault, of those that began.
        n: Distinct devices that began.
        rate: The tolerated rate.
        alpha: The probability of a false word, ever.
        devices: Fewer distinct devices than this prove nothing: as many as one who holds one device cannot be.
    """
    return bad >= devices and evidence(bad, n, rate) >= 1.0 / alpha


def least_bad(n: int, rate: float, *, alpha: float, devices: int) -> int | None:
    """The fewest faults among ``n`` devices that exceed the tolerated rate; None: not even all of them do."""
    if not exceeds(n, n, rate, alpha=alpha, devices=devices):
        return None
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if exceeds(middle, n, rate, alpha=alpha, devices=devices) else (middle, high)
    return high


def halted_above(n: int, rate: float, *, alpha: float, devices: int, power: float) -> float | None:
    """The true rate from which ``n`` devices exceed the tolerated one with probability ``power``; None: they never can."""
    needed = least_bad(n, rate, alpha=alpha, devices=devices)
    if needed is None:
        return None
    low, high = rate, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        seen = 1.0 - binomial_tail(needed - 1, n, middle)
        low, high = (low, middle) if seen >= power else (middle, high)
    return high


def ruled_out(n: int, confidence: float) -> float:
    """The rate above which none of ``n`` devices would have stayed without the fault: 1 − (1−c)^(1/n); 1 without devices."""
    return upper_rate(0, n, confidence)


def raised(treated: Sequence[float], control: Sequence[float], margin: float) -> float:
    """P-value that what was measured on ``treated`` devices is at most ``margin`` above that on ``control`` devices.

    One value a device, whatever it did: the sum of ranks (Wilcoxon 1945; Mann & Whitney 1947), one-sided, given the ties. One device that
    says what it likes moves one rank. Exact up to `EXACT_DEVICES` devices in all, else normal with correction for ties and continuity.
    """
    n, m = len(treated), len(control)
    if not n or not m:
        return 1.0
    ranks = _double_ranks(np.concatenate((np.asarray(treated) - margin, np.asarray(control))))
    found = int(ranks[:n].sum())
    if n + m <= EXACT_DEVICES:
        return _exact_tail(ranks, n, found)
    mean = n * float(ranks.sum()) / (n + m)
    spread = float(((ranks - ranks.mean()) ** 2).sum()) * n * m / ((n + m) * (n + m - 1))
    if spread <= 0.0:
        return 1.0
    return 0.5 * math.erfc((found - 1 - mean) / math.sqrt(2 * spread))


def _double_ranks(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Twice the mid-rank of each value: whole numbers."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1


def _exact_tail(ranks: "np.ndarray[tuple[int], np.dtype[np.int64]]", n: int, found: int) -> float:
    """The share of all choices of ``n`` of the ranks whose sum is at least ``found``."""
    top = int(np.sort(ranks)[-n:].sum())
    ways = np.zeros((n + 1, top + 1))
    ways[0, 0] = 1.0
    for rank in map(int, ranks):
        for taken in range(n, 0, -1):
            ways[taken, rank:] += ways[taken - 1, : top + 1 - rank]
    return float(ways[n, found:].sum() / ways[n].sum())
