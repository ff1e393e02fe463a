"""Is this input like what the model knows? Mahalanobis distances on pooled features, of which the farthest counts. Decides nothing.

Softmax confidence does not see foreign input (blank, inverted, noise); this does. The idea is Lee et al. 2018
(arXiv 1807.03888), with one Gaussian for all classes. What is pooled decides how well it works. On the mean and maximum of
the last convolution's maps, blank grey passed for 6 of 7 small models; on mean and log-variance of the first and last maps,
still for 5 of 8. On the moments and the sharpness of the picture itself, dark and colour-swapped ones pass. The farther of these
two distances lets none of blank, black, inverted, colour-swapped, dark or noisy input pass for any of 8 models, at the same
false-alarm rate; one Gaussian over both sets of features does not (noise: up to 20 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outrider_export.data import Tensors
from outrider_export.networks import Pools, Splits
from outrider_export.promises import FALSE_ALARMS
from outrider_wire.errors import RuleRefusalError

FEWEST_ROWS = 32
"""Below this a covariance says nothing."""
_RIDGE = 1e-4
"""Added to every variance, as a share of the mean variance: keeps directions in which nothing varied from ruling."""
_ROUNDING = 2.0**-14
"""What may be rounding in a feature, as a share of its size: a few hundred times what 32 bits lose. Of a feature that never varies (the
sharpness of pictures of one colour) nothing else is left, and a distance in units of its deviation would be of rounding alone."""
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Where the features of known inputs lie."""

    mean: NDArray[np.float64]
    """(d,)"""
    precision: NDArray[np.float64]
    """(d, d), symmetric."""
    n: int

    def distances(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) from features (n, d)."""
        away = features - self.mean
        return np.asarray(np.sqrt(np.maximum((away @ self.precision * away).sum(1), 0.0)), np.float64)


def pooled_features(module: Pools, tensors: Tensors) -> list[NDArray[np.float64]]:
    """Each view's features (rows, d) of all rows."""
    with torch.inference_mode():
        batches = [module.pooled(*map(torch.from_numpy, batch.values())) for batch in tensors.batches(_ROWS)]
    return [torch.cat(view).double().numpy() for view in zip(*batches, strict=True)]


def fit_gaussian(features: NDArray[np.float64], *, noise: float = 0.0) -> Gaussian:
    """Mean and regularised inverse covariance of features (n, d); ``noise`` is the deviation that each has besides, of rounding.

    Raises:
        RuleRefusalError: too few rows.
    """
    n, d = features.shape
    if n < FEWEST_ROWS:
        raise RuleRefusalError(
            f"{n} rows cannot say what the model knows",
            reason="too_few_support_rows",
            fix=f"bring at least {FEWEST_ROWS}, labelled or not",
        )
    noises = np.hypot(noise, _ROUNDING * np.sqrt(np.square(features).mean(0))) + 1e-9
    spread = np.hypot(features.std(0), noises)
    correlation = np.cov(features / spread, rowvar=False).reshape(d, d) + np.diag((noises / spread) ** 2)
    precision = np.linalg.inv(correlation + _RIDGE * np.eye(d)) / np.outer(spread, spread)
    return Gaussian(mean=features.mean(0), precision=precision, n=n)


def unseen_distance(distance: float, n: int) -> float:
    """What a distance measured on one of the ``n`` rows that the Gaussian was fitted on would be, had it been left out.

    Exact for the plain covariance (Sherman and Morrison), and monotone: a quantile of distances carries over.
    """
    share = min(distance**2 / (n - 1), (n - 1) / n * 0.999)
    return float(n / (n - 1) * np.sqrt((n - 2) * share / (1 - share * n / (n - 1))))


@dataclass(frozen=True, kw_only=True)
class Known:
    """One view of what is known."""

    gaussian: Gaussian
    unit: float
    """The distance that counts as one: all but `FALSE_ALARMS`, shared out over the views, of unseen rows are nearer."""

    @property
    def factor(self) -> NDArray[np.float64]:
        """(d, d), lower triangular, L with L·Lᵀ = precision / unit²: the distance is the length of what L makes of a deviation.

        Where the precision itself is stored coarsely, large terms no longer cancel: with 8 bits of it nothing is left of a distance,
        with 8 bits of L a few per cent are lost.
        """
        precision = self.gaussian.precision / self.unit**2
        scale = np.sqrt(np.diag(precision))
        return np.asarray(scale[:, None] * np.linalg.cholesky(precision / np.outer(scale, scale)), np.float64)

    def distances(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) in units, from features (n, d)."""
        return self.gaussian.distances(features) / self.unit


def fit_known(views: Sequence[NDArray[np.float64]], *, noise: float = 0.0) -> list[Known]:
    """A Gaussian and its unit for each view's features (n, d) of the same known rows; ``noise`` as `fit_gaussian` takes it.

    Raises:
        RuleRefusalError: too few rows.
    """
    found = []
    for features in views:
        gaussian = fit_gaussian(features, noise=noise)
        nearest = float(np.quantile(gaussian.distances(features), 1 - FALSE_ALARMS / len(views)))
        found.append(Known(gaussian=gaussian, unit=unseen_distance(nearest, gaussian.n)))
    return found


def farthest(known: Sequence[Known], views: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(n,) support distances of rows whose features (n, d) are given view by view."""
    found = np.stack([each.distances(features) for each, features in zip(known, views, strict=True)])
    return np.asarray(found.max(0), np.float64)


class Deployable(nn.Module):
    """What is exported: (logits, support), support (n,) the farthest view's distance in its own unit.

    ``embedding``: the first input's encoding (n, d) as well, of a module that `Splits`.
    """

    def __init__(self, module: nn.Module, known: Sequence[Known], *, embedding: bool = False) -> None:
        super().__init__()
        self.module = Embedding(module) if embedding else module
        self.source = module
        self.means = nn.ParameterList(_constant(view.gaussian.mean) for view in known)
        self.factors = nn.ParameterList(_constant(view.factor) for view in known)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits (n, labels), support (n,), and the embedding where it is asked for."""
        views = cast("Pools", self.source).pooled(*tensors)
        squared = []
        for features, mean, factor in zip(views, self.means, self.factors, strict=True):
            away = (features - mean) @ factor
            squared.append((away * away).sum(1))
        support = torch.stack(squared).amax(0).sqrt()
        if isinstance(self.module, Embedding):
            logits, features = self.module(*tensors)
            return logits, support, features
        return self.module(*tensors), support


class Embedding(nn.Module):
    """What is exported of a module without a support distance: (logits, embedding)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, labels) and the first input's encoding (n, d)."""
        splits = cast("Splits", self.module)
        features = splits.encode(tensors[0])
        return splits.fuse(features, *tensors[1:]), features


def _constant(values: NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values).float(), requires_grad=False)
