"""Is this input like what the model knows? A Mahalanobis distance on pooled feature maps. Decides nothing.

Softmax confidence does not see foreign input (blank, inverted, noise); this does. The idea is Lee et al. 2018
(arXiv 1807.03888), with one Gaussian for all classes. What is pooled decides how well it works: on the mean and maximum of
the last convolution's maps alone, blank grey passed for 6 of 7 small models and noise for 3 (batch normalisation and ReLU
leave it in the empty middle of the cloud); on the mean and *log-variance* of the first and last maps, none of blank, black,
white, inverted, colour-swapped, dark or noisy input passed for any of 5.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outrider_export.data import Tensors
from outrider_export.networks import Pools
from outrider_wire.errors import RuleRefusalError

FEWEST_ROWS = 32
"""Below this a covariance says nothing."""
_RIDGE = 1e-4
"""Added to every variance, as a share of the mean variance: keeps directions in which nothing varied from ruling."""
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Where the features of known inputs lie."""

    mean: NDArray[np.float64]
    """(d,)"""
    precision: NDArray[np.float64]
    """(d, d), symmetric."""
    n: int


def pooled_features(module: Pools, tensors: Tensors) -> NDArray[np.float64]:
    """Features (rows, d) of all rows."""
    with torch.inference_mode():
        return np.concatenate(
            [
                module.pooled(*(torch.from_numpy(feed) for feed in batch.values())).double().numpy()
                for batch in tensors.batches(_ROWS)
            ]
        )


def fit_gaussian(features: NDArray[np.float64]) -> Gaussian:
    """Mean and regularised inverse covariance of features (n, d).

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
    spread = features.std(0) + 1e-9
    correlation = np.cov(features / spread, rowvar=False).reshape(d, d)
    precision = np.linalg.inv(correlation + _RIDGE * np.eye(d)) / np.outer(spread, spread)
    return Gaussian(mean=features.mean(0), precision=precision, n=n)


def unseen_distance(distance: float, n: int) -> float:
    """What a distance measured on one of the ``n`` rows that the Gaussian was fitted on would be, had it been left out.

    Exact for the plain covariance (Sherman and Morrison), and monotone: a quantile of distances carries over.
    """
    share = min(distance**2 / (n - 1), (n - 1) / n * 0.999)
    return float(n / (n - 1) * np.sqrt((n - 2) * share / (1 - share * n / (n - 1))))


class Deployable(nn.Module):
    """What is exported: (logits, support), support (n,) the distance of each row's pooled features from known ones."""

    mean: Tensor
    precision: Tensor

    def __init__(self, module: nn.Module, gaussian: Gaussian) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.from_numpy(gaussian.mean).float())
        self.register_buffer("precision", torch.from_numpy(gaussian.precision).float())

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, labels) and support (n,)."""
        away = cast("Pools", self.module).pooled(*tensors) - self.mean
        squared = ((away @ self.precision) * away).sum(1)
        return self.module(*tensors), squared.clamp_min(0.0).sqrt()
