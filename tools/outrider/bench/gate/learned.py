"""A softmax regression on few rows: what a deferral head and a router are made of. Fits in memory, needs no torch, knows no gate."""

from dataclasses import dataclass

import numpy as np

from outrider.bench.gate.rows import Floats
from outrider_wire.calibration import softmax

PENALTIES = (0.01, 0.03, 0.1, 0.3)
"""Of the squared weights, on standardised features; the one that predicts held-out rows best is taken."""
_FOLDS = 4
_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Features to a distribution."""

    mean: Floats
    scale: Floats
    weights: Floats
    """(d + 1, c), the last row for the constant."""

    def __call__(self, features: Floats) -> Floats:
        """(n, c) from (n, d)."""
        return softmax(_with_constant((features - self.mean) / self.scale) @ self.weights)


def fit(features: Floats, targets: Floats) -> Regression:
    """The regression of least cross-entropy to ``targets`` (n, c), distributions, with the penalty chosen by cross-validation."""
    fold = np.arange(len(features)) % _FOLDS
    losses = []
    for penalty in PENALTIES:
        held_out = 0.0
        for k in range(_FOLDS):
            inside, outside = fold != k, fold == k
            fitted = _fitted(features[inside], targets[inside], penalty)
            held_out -= float((targets[outside] * np.log(np.maximum(fitted(features[outside]), 1e-12))).sum())
        losses.append(held_out)
    return _fitted(features, targets, PENALTIES[int(np.argmin(losses))])


def _fitted(features: Floats, targets: Floats, penalty: float) -> Regression:
    mean, scale = features.mean(0), features.std(0) + 1e-6
    inputs = _with_constant((features - mean) / scale)
    shrink = np.full((inputs.shape[1], 1), penalty)
    shrink[-1] = 0.0
    # Nesterov's accelerated gradient at the step that the Hessian's bound (Böhning 1992) allows.
    step = 1.0 / (0.5 * float(np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1]) + penalty)
    weights = np.zeros((inputs.shape[1], targets.shape[1]))
    before = weights
    for at in range(_STEPS):
        ahead = weights + at / (at + 3) * (weights - before)
        slope = inputs.T @ (softmax(inputs @ ahead) - targets) / len(inputs) + shrink * ahead
        before, weights = weights, ahead - step * slope
    return Regression(mean=mean, scale=scale, weights=weights)


def _with_constant(inputs: Floats) -> Floats:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
