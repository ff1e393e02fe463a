"""A large and a small network for one spoken digit, and the steps that turn a sound into what they read. Trains nothing."""

from collections.abc import Sequence
from math import log, prod
from typing import Any

import torch
from torch import Tensor, nn

from outrider_export.augment import Jitter
from outrider_export.networks import channel_moments, convolution
from outrider_export.students import Architecture
from outrider_export.training import TrainingPlan
from outrider_wire.manifest import ModelInput, Step

RATE = 8000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRAMES, MELS = 64, 32
STEPS = [
    Step(op="decode_audio"),
    Step(op="resample", args={"rate": RATE}),
    Step(
        op="log_mel",
        args={
            "mels": MELS,
            "window": 256,
            "hop": 125,
            "transform": 256,
            "low_hz": 60.0,
            "high_hz": RATE / 2,
            "floor": 1e-5,
            "centred": True,
        },
    ),
    Step(op="fit", args={"length": FRAMES, "value": log(1e-5)}),
    Step(op="normalize", args={"mean": [-4.0], "std": [3.0]}),
    Step(op="one_plane"),
]
"""One second as 64 frames of 32 bands up to 4 kHz: the same code in training, in the export and on the device."""


class DigitNet(nn.Module):
    """Log-mel frames (n, 1, 64, 32) → logits (n, 10). Unlike the shipped `audio-small` it knows what comes first in a word."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        sizes = (1, *channels)
        self.maps = nn.ModuleList(convolution(a, b, s) for a, b, s in zip(sizes, channels, strides, strict=False))
        left = (FRAMES // prod(strides)) * (MELS // prod(strides))
        self.dense = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels[-1] * left, width), nn.ReLU())
        self.head = nn.Linear(width, len(DIGITS))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.hidden(frames))
        return logits

    def hidden(self, frames: Tensor) -> Tensor:
        """What the last layer decides by."""
        hidden: Tensor = self.dense(self._mapped(frames)[-1])
        return hidden

    def pooled(self, frames: Tensor) -> tuple[Tensor]:
        """Mean and spread of the first and the last maps: what an input's distance from the known is taken on."""
        maps = self._mapped(frames)
        return (torch.cat([*channel_moments(maps[0], floor=1e-3), *channel_moments(maps[-1], floor=1e-3)], 1),)

    def _mapped(self, frames: Tensor) -> list[Tensor]:
        found = [frames - frames.mean((2, 3), keepdim=True)]  # how loud it is does not count
        for layer in self.maps:
            found.append(layer(found[-1]))
        return found[1:]


def network(name: str, plan: TrainingPlan, *sizes: Any) -> Architecture:
    """A `DigitNet` by name, with the steps that turn a sound into its frames."""
    return Architecture(
        name=name,
        inputs=lambda task: [ModelInput(part="audio", tensor="audio", steps=STEPS, shape=[1, FRAMES, MELS])],
        build=lambda task: DigitNet(*sizes),
        plan=plan,
    )


JITTER = Jitter(translate=3)
LARGE_PLAN = TrainingPlan(epochs=10, subjects=64, learning_rate=3e-3, weight_decay=1e-2, jitter=JITTER)
SMALL_PLAN = TrainingPlan(epochs=60, subjects=32, learning_rate=5e-3, weight_decay=1e-2, jitter=JITTER)
LARGE = network("digits-large", LARGE_PLAN, (24, 40, 64, 96), (2, 1, 2, 2), 128)
SMALL = network("digits-small", SMALL_PLAN, (8, 16, 16), (2, 2, 2), 32)
