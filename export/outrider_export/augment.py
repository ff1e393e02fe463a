"""Random changes of prepared images, for training. Works on arrays that the declared steps made; knows no files.

Images are (n, 3, height, width) in 0..1.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

Range = tuple[float, float]
_CHUNK = 256
"""Images blurred at a time: what stays in a CPU's cache."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A camera, as the ranges of what it does to a picture: optics, light, read noise, in that order."""

    red: Range = (0.6, 1.15)
    green: Range = (0.6, 1.15)
    blue: Range = (0.6, 1.15)
    exposure: Range = (0.5, 1.1)
    blur: Range = (0.0, 1.5)
    """σ of a Gaussian, in pixels."""
    noise: Range = (0.0, 0.08)
    """σ of additive Gaussian noise."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """One random capture of every image."""
        n = len(images)
        light = torch.stack([_uniform(gain, n, generator) for gain in (self.red, self.green, self.blue)], 1)
        light = light * _uniform(self.exposure, n, generator)[:, None]
        sigma, noise = _uniform(self.blur, n, generator), _uniform(self.noise, n, generator)
        seen = torch.cat(
            [blurred(images[start : start + _CHUNK], sigma[start : start + _CHUNK]) for start in range(0, n, _CHUNK)]
        )
        seen.mul_(light[:, :, None, None])
        seen.add_(torch.randn(seen.shape, generator=generator).mul_(noise[:, None, None, None]))
        return seen.clamp_(0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Small changes, drawn afresh for every batch: cheap enough for a student's few images."""

    translate: int = 0
    """Pixels to either side; the border is repeated."""
    flip: bool = False
    """Mirror every second epoch. Off unless left and right mean the same in the task's pictures."""
    gain: float = 0.0
    """σ of a brightness factor around 1."""
    noise: float = 0.0
    """Largest σ of additive Gaussian noise."""

    def __call__(self, images: Tensor, generator: Generator, *, mirrored: bool = False) -> Tensor:
        """A random change of every image of a batch."""
        if self.flip and mirrored:
            images = images.flip(3)
        if self.translate:
            images = translated(images, self.translate, generator)
        if self.gain or self.noise:
            n = (len(images), 1, 1, 1)
            images = images * (1 + self.gain * torch.randn(n, generator=generator))
            level = self.noise * torch.rand(n, generator=generator)
            images = (images + level * torch.randn(images.shape, generator=generator)).clamp(0.0, 1.0)
        return images


def translated(images: Tensor, pixels: int, generator: Generator) -> Tensor:
    """The whole batch moved by one random offset of at most ``pixels`` in either direction."""
    height, width = images.shape[2:]
    down, right = torch.randint(0, 2 * pixels + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images, (pixels,) * 4, mode="replicate")
    return padded[:, :, down : down + height, right : right + width]


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Every image under a Gaussian of its own ``sigma`` (n,), in pixels; seven taps an axis."""
    offsets = torch.arange(-3, 4, dtype=images.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    weights = (weights / weights.sum(1, keepdim=True))[:, :, None, None, None]
    height, width = images.shape[2:]
    rows = functional.pad(images, (0, 0, 3, 3), mode="replicate")
    images = _weighted_sum([rows[:, :, k : k + height] for k in range(7)], weights)
    columns = functional.pad(images, (3, 3, 0, 0), mode="replicate")
    return _weighted_sum([columns[:, :, :, k : k + width] for k in range(7)], weights)


def _weighted_sum(views: list[Tensor], weights: Tensor) -> Tensor:
    total = views[0] * weights[:, 0]
    for k, view in enumerate(views[1:], 1):
        total.addcmul_(view, weights[:, k])
    return total


def _uniform(bounds: Range, n: int, generator: Generator) -> Tensor:
    low, high = bounds
    return torch.rand(n, generator=generator) * (high - low) + low
