"""The benchmark's own networks, and how they are trained: on one thread, the same seed giving the same weights. Knows no task."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from outrider.bench.gate.rows import Floats
from outrider_export.support import Known, fit_known
from outrider_export.training import descend

Net = TypeVar("Net", bound=nn.Module)
Augment = Callable[[Tensor, Generator], Tensor]
Share = Callable[[float], None]
"""Told which share of the work is done, 0 to 1."""
_ROWS = 512


class ConvNet(nn.Module):
    """(n, channels, *space) → logits (n, labels); one dimension of space for a signal, two for a picture."""

    def __init__(
        self,
        *,
        space: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        labels: int,
        kernel: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        sizes = itertools.pairwise((1, *channels))
        self.maps = nn.ModuleList(
            _convolution(len(space), a, b, stride, kernel) for (a, b), stride in zip(sizes, strides, strict=True)
        )
        left = [int(side) for side in space]
        for stride in strides:
            left = [-(-side // stride) for side in left]
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels[-1] * int(np.prod(left)), width), nn.ReLU()
        )
        self.head = nn.Linear(width, labels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.embedded(inputs))
        return logits

    def embedded(self, inputs: Tensor) -> Tensor:
        """(n, width)"""
        for layer in self.maps:
            inputs = layer(inputs)
        features: Tensor = self.dense(inputs)
        return features

    def pooled(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Two views, as the shipped students have them: the input itself, and the moments of the first and of the last maps.

        A picture is seen by its moments and sharpness, a signal by its samples: white noise passes as a signal by its maps'
        moments alone.
        """
        first = last = self.maps[0](inputs)
        for layer in itertools.islice(self.maps, 1, None):
            last = layer(last)
        own = inputs.flatten(1) if inputs.ndim == 3 else torch.cat([*_moments(inputs, 1e-5), _sharpness(inputs)], 1)
        return own, torch.cat([*_moments(first, 1e-3), *_moments(last, 1e-3)], 1)


class WordNet(nn.Module):
    """(n, buckets) counts of hashed n-grams, or an embedding (n, d) → logits; one hidden layer."""

    def __init__(self, *, inputs: int, width: int, labels: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, labels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.embedded(inputs))
        return logits

    def embedded(self, inputs: Tensor) -> Tensor:
        """(n, width)"""
        features: Tensor = self.hidden(inputs)
        return features


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a module is trained: AdamW under a one-cycle schedule."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


def trained(
    build: Callable[[], Net],
    inputs: Tensor,
    labels: NDArray[np.int64],
    fit: Fit,
    *,
    seed: int,
    augment: Augment | None = None,
    share: Share = lambda _: None,
) -> Net:
    """A module trained on ``inputs`` (n, …); the caller's random state is left as it was."""
    torch.set_num_threads(1)
    chance, order = Generator().manual_seed(seed), np.random.default_rng(seed)
    targets = torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
        steps = fit.epochs * (len(inputs) // fit.batch)
        optimiser = torch.optim.AdamW(module.parameters(), fit.learning_rate, weight_decay=fit.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, fit.learning_rate, total_steps=steps)
        module.train()
        for epoch in range(fit.epochs):
            for rows in _batches(order.permutation(len(inputs)), fit.batch):
                seen = inputs[rows] if augment is None else augment(inputs[rows], chance)
                loss = functional.cross_entropy(module(seen), targets[rows])
                descend(loss, optimiser, schedule)
            share((epoch + 1) / fit.epochs)
    module.eval()
    return module


def evaluated(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Floats:
    """``function`` of all rows, as float64."""
    with torch.inference_mode():
        return np.concatenate([function(part).double().numpy() for part in _parts(inputs)])


def known(module: ConvNet, inputs: Tensor) -> list[Known]:
    """Where each view of what the device has seen lies."""
    return fit_known(_views(module, inputs))


def distance(module: ConvNet, views: Sequence[Known], inputs: Tensor) -> Floats:
    """(n,) How far each input is from what is known: its farthest view, in that view's own unit."""
    found = zip(views, _views(module, inputs), strict=True)
    return np.asarray(
        np.max([view.gaussian.distances(features) / view.unit for view, features in found], 0), np.float64
    )


def _views(module: ConvNet, inputs: Tensor) -> list[Floats]:
    with torch.inference_mode():
        parts = [module.pooled(part) for part in _parts(inputs)]
    return [torch.cat(view).double().numpy() for view in zip(*parts, strict=True)]


def _parts(inputs: Tensor) -> list[Tensor]:
    return [inputs[start : start + _ROWS] for start in range(0, len(inputs), _ROWS)]


def _batches(order: NDArray[np.int64], size: int) -> list[Tensor]:
    whole = len(order) // size
    return [torch.from_numpy(order[at * size : (at + 1) * size]) for at in range(whole)]


def _moments(maps: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    flat = maps.flatten(2)
    return flat.mean(2), torch.log(flat.var(2, correction=0) + floor)


def _sharpness(pictures: Tensor) -> Tensor:
    down, right = pictures.diff(dim=2), pictures.diff(dim=3)
    return torch.log((down * down).mean((2, 3)) + (right * right).mean((2, 3)) + 1e-5)


def _convolution(dimensions: int, channels_in: int, channels_out: int, stride: int, kernel: int) -> nn.Module:
    convolution = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
    normalise = (nn.BatchNorm1d, nn.BatchNorm2d)[dimensions - 1]
    return nn.Sequential(
        convolution(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        normalise(channels_out),
        nn.ReLU(),
    )
