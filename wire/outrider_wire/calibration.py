"""Logits to probabilities that mean what they say: temperature and vector scaling (Guo et al. 2017, arXiv 1706.04599). Decides nothing."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outrider_wire.errors import BundleMismatchError, RuleRefusalError
from outrider_wire.manifest import Calibration

TEMPERATURES = (math.exp(-3.0), math.exp(4.0))
"""Where a temperature is looked for. Logits without an error among them would ask for zero, useless ones for infinity."""
PRIOR = (0.5, 1.0)
"""Standard deviations of a label's scale around 1 and of its bias around 0, before any row is seen."""
_NEWTON_STEPS = 50
_TINY = 1e-300
Floats = NDArray[np.float64]


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Rows of probabilities, (n, k) float64 from (n, k), or (k,) from (k,)."""
    return _shares(np.asarray(logits, np.float64) / temperature)


def calibrated(logits: ArrayLike, calibration: Calibration) -> NDArray[np.float64]:
    """The probabilities (n, k), or (k,), that a manifest's calibration makes of logits."""
    return calibrator(calibration)(logits)


def calibrator(calibration: Calibration) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """`calibrated` of one calibration, its numbers read once."""
    temperature = calibration.temperature
    if calibration.method == "temperature":
        return partial(softmax, temperature=temperature)
    scale, bias = np.asarray(calibration.scale or 1.0), np.asarray(calibration.bias or 0.0)

    def scaled(logits: ArrayLike) -> Floats:
        rows: Floats = np.asarray(logits, np.float64) / temperature
        rows *= scale
        rows += bias
        return _shares(rows)

    return scaled


def _shares(rows: Floats) -> Floats:
    """Exponentials over their sum, in place; the reductions as `max` and `sum`, in half the time."""
    rows -= np.maximum.reduce(rows, axis=-1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= np.add.reduce(rows, axis=-1, keepdims=True)
    return rows


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature of least negative log-likelihood, of logits (n, k) and labels (n,), within `TEMPERATURES`.

    In β = 1/T the likelihood is convex with slope mean(E_p[z] − z_label), so that its zero is found by bisection.

    Raises:
        RuleRefusalError: there are no rows.
        BundleMismatchError: a logit is not finite.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if not len(z):
        raise RuleRefusalError("there are no rows to fit a temperature on", reason="no_rows", fix="bring tuning rows")
    if not np.isfinite(z).all():
        raise BundleMismatchError("the model gave a logit that is not finite", reason="not_finite")
    of_label = z[np.arange(len(z)), y].mean()
    low, high = 1.0 / TEMPERATURES[1], 1.0 / TEMPERATURES[0]
    for _ in range(60):
        middle = (low + high) / 2
        slope = (softmax(z, 1.0 / middle) * z).sum(axis=1).mean() - of_label
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 2.0 / (low + high)


def fit_vector(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Vector scaling: a scale and a bias a label after the best temperature, of logits (n, k) and labels (n,).

    Minimises the negative log-likelihood and Gaussian priors that hold every scale near 1 and every bias near 0 (standard
    deviations `PRIOR`), so that with little data it is temperature scaling. Convex in both; Newton's method, 2k unknowns: for
    some hundred labels at most. Unlike a temperature, it can change which label is the answer.

    Raises:
        RuleRefusalError: there are no rows.
        BundleMismatchError: a logit is not finite.
    """
    temperature = fit_temperature(logits, labels)
    z, y = np.asarray(logits, np.float64) / temperature, np.asarray(labels, np.int64)
    n, k = z.shape
    penalty = np.repeat(1.0 / np.square(PRIOR), k) / n
    rest = np.concatenate((np.ones(k), np.zeros(k)))
    loss = partial(_vector_loss, z=z, y=y, penalty=penalty, rest=rest)
    theta = rest
    for _ in range(_NEWTON_STEPS):
        p = softmax(theta[:k] * z + theta[k:])
        slope = _vector_slope(p, z, y) + penalty * (theta - rest)
        step = np.linalg.solve(_vector_curvature(p, z) + np.diag(penalty), slope)
        length = 1.0
        while length > 1e-6 and loss(theta - length * step) > loss(theta) - 1e-4 * length * float(slope @ step):
            length /= 2
        theta = theta - length * step
        if float(slope @ step) < 1e-12:
            break
    return Calibration(temperature=temperature, method="vector", n=n, scale=theta[:k].tolist(), bias=theta[k:].tolist())


def _vector_loss(theta: Floats, *, z: Floats, y: NDArray[np.int64], penalty: Floats, rest: Floats) -> float:
    k = z.shape[1]
    scaled = theta[:k] * z + theta[k:]
    return negative_log_likelihood(softmax(scaled), y) + float(penalty @ np.square(theta - rest)) / 2


def _vector_slope(p: Floats, z: Floats, y: NDArray[np.int64]) -> Floats:
    off = p.copy()
    off[np.arange(len(y)), y] -= 1.0
    return np.concatenate(((off * z).mean(axis=0), off.mean(axis=0)))


def _vector_curvature(p: Floats, z: Floats) -> Floats:
    """The Hessian (2k, 2k) of the mean negative log-likelihood."""
    rows = np.concatenate((p * z, p), axis=1)
    curvature = -rows.T @ rows / len(z)
    k = z.shape[1]
    own = [(p * z * z).mean(axis=0), (p * z).mean(axis=0), p.mean(axis=0)]
    at = np.arange(k)
    curvature[at, at] += own[0]
    curvature[at, k + at] += own[1]
    curvature[k + at, at] += own[1]
    curvature[k + at, k + at] += own[2]
    return np.asarray(curvature, np.float64)


def log_losses(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """(n,) −log of what probabilities (n, k) give to labels (n,)."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    return np.asarray(-np.log(np.maximum(p[np.arange(len(y)), y], _TINY)), np.float64)


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `log_losses`."""
    return float(log_losses(probabilities, labels).mean())


class Bin(NamedTuple):
    """Rows that a model was about equally sure of."""

    n: int
    confidence: float
    """Mean."""
    accuracy: float


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = 15) -> list[Bin]:
    """Bins of equal mass (arXiv 1909.10155), the least sure first, of confidence (n,) and whether each answer is right (n,)."""
    sure, good = np.asarray(confidence, np.float64), np.asarray(right, np.bool_)
    order = np.argsort(sure, kind="stable")
    return [
        Bin(len(rows), float(sure[rows].mean()), float(good[rows].mean()))
        for rows in np.array_split(order, bins)
        if len(rows)
    ]


def calibration_gap(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean |confidence − accuracy| over bins, each weighted by its rows."""
    n = sum(each.n for each in bins)
    return sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / n if n else 0.0


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """`calibration_gap` of probabilities (n, k) and labels (n,)."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    return calibration_gap(reliability(p.max(axis=1), p.argmax(axis=1) == y, bins)) if len(p) else 0.0
