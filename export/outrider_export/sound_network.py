"""The shipped student of sounds: a small convolutional net over log-mel frames. Knows no task and no training.

As in `outrider_export.networks`, ``pooled`` gives what the support distances are taken on, ``hidden`` what the last layer decides by,
``encode`` and ``fuse`` the two halves around the sound's encoding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from outrider_export.networks import channel_moments, convolution, dense

_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class SoundShape:
    """The sizes of a student of log-mel frames."""

    frames: int
    hop: int
    """Samples from one frame to the next."""
    mels: int
    """A multiple of `_GROUPS`."""
    channels: tuple[int, ...]
    width: int
    head: int


class SoundNet(nn.Module):
    """Log-mel frames (n, 1, frames, mels) → logits (n, labels). Where in time a sound lies does not count; its pitch does."""

    def __init__(self, shape: SoundShape, labels: int) -> None:
        super().__init__()
        sizes = (1, *shape.channels)
        self.convolutions = nn.Sequential(*(convolution(a, b, 2) for a, b in zip(sizes, shape.channels, strict=False)))
        self.grouped = (shape.frames, _GROUPS, shape.mels // _GROUPS)
        bands = shape.mels
        for _ in shape.channels:
            bands = -(-bands // 2)
        self.dense = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * shape.channels[-1] * bands, shape.width), nn.ReLU())
        self.head = dense(shape.width, shape.head, labels)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits."""
        return self.fuse(self.encode(frames))

    def encode(self, frames: Tensor) -> Tensor:
        """Features (n, width): mean and maximum over time of each band of each map."""
        maps = self.convolutions(frames)
        over_time = torch.cat([maps.mean(2).flatten(1), maps.amax(2).flatten(1)], 1)
        features: Tensor = self.dense(over_time)
        return features

    def fuse(self, features: Tensor) -> Tensor:
        """Logits from features."""
        logits: Tensor = self.head(features)
        return logits

    def hidden(self, frames: Tensor) -> Tensor:
        """What the last layer decides by."""
        hidden: Tensor = self.head[:-1](self.encode(frames))
        return hidden

    def adapters(self) -> list[nn.Module]:
        """All behind the sound's features."""
        return [self.head]

    def pooled(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The sound itself (mean and spread of each of `_GROUPS` groups of bands), and the maps of the first and last convolution."""
        bands = frames[:, 0].reshape(-1, *self.grouped).mean(3)
        mean = bands.mean(1, keepdim=True)
        own = torch.cat([mean[:, 0], torch.log((bands - mean).square().mean(1) + 1e-3)], 1)
        first = self.convolutions[0](frames)
        last = self.convolutions[1:](first)
        return own, torch.cat([*channel_moments(first, floor=1e-3), *channel_moments(last, floor=1e-3)], 1)
