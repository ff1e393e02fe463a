"""Logits to probabilities that mean what they say: temperature and vector scaling (Guo et al. 2017, arXiv 1706.04599). Decides nothing."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outrider_wire.errors import BundleMismatchError, RuleRefusalError
from outrider_wire.manifest import Calibration

TEMPERATURES = (math.exp(-3.0), math.exp(4.0))
"""Where a temperature is looked for. Logits without an error among them would ask for zero, useless ones for infinity."""


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Rows of probabilities, (n, k) float64 from (n, k), or (k,) from (k,)."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)


def calibrated(logits: ArrayLike, calibration: Calibration) -> NDArray[np.float64]:
    """The probabilities (n, k), or (k,), that a manifest's calibration makes of logits."""
    if calibration.method == "temperature":
        return softmax(logits, calibration.temperature)
    z = np.asarray(logits, np.float64) / calibration.temperature
    return softmax(z * np.asarray(calibration.scale or 1.0) + np.asarray(calibration.bias or 0.0))


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


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean |confidence − accuracy| over bins of equal mass (arXiv 1909.10155), of probabilities (n, k) and labels (n,)."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    if not len(p):
        return 0.0
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    order = np.argsort(confidence, kind="stable")
    gaps = [
        abs(confidence[rows].mean() - right[rows].mean()) * len(rows)
        for rows in np.array_split(order, bins)
        if len(rows)
    ]
    return float(sum(gaps) / len(p))
