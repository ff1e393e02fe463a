"""The shipped students' networks: a small convolutional net, alone or fused with hashed words. Knows no task and no training.

Any module may stand in for them: ``forward(*tensors) -> logits``, tensors in the order of its inputs. Optional:
``pooled(*tensors)`` gives the features that the support distances are taken on, ``hidden(*tensors)`` those that the deferral
score is learnt from, ``adapters()`` the layers that a small round trains, and ``encode(first)`` with ``fuse(features, *rest)``
lets many questions about one image share its encoding.
"""

import itertools
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Splits(Protocol):
    """A module whose first input is encoded once, however many rows share it."""

    def encode(self, first: Tensor) -> Tensor:
        """Features (n, width) of the first input."""
        ...

    def fuse(self, features: Tensor, *rest: Tensor) -> Tensor:
        """Logits (n, labels) from those features and the other inputs."""
        ...


@runtime_checkable
class Pools(Protocol):
    """A module that says what its support distance is taken on."""

    def pooled(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Views of the input, each as features (n, d) of its own: the one that is farthest from what is known counts."""
        ...


@runtime_checkable
class Adapts(Protocol):
    """A module of which a small round trains a part."""

    def adapters(self) -> list[nn.Module]:
        """The layers that go on learning; what the support distance is taken on does not depend on them."""
        ...


@runtime_checkable
class Reveals(Protocol):
    """A module that says what its last layer decides by."""

    def hidden(self, *tensors: Tensor) -> Tensor:
        """Features (n, d), of which the logits are a linear function."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a student."""

    image: int
    """Height and width of the image, in pixels."""
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    width: int
    """Features of the image, and of the question."""
    words: int = 0
    """Buckets of hashed words; 0 for a student without text."""
    bigrams: bool = False
    word_layers: int = 1
    head: int = 64


class ImageEncoder(nn.Module):
    """Convolutions, then one dense layer: (n, 3, image, image) → (n, width)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        sizes = (3, *shape.channels)
        self.convolutions = nn.Sequential(
            *(convolution(a, b, stride) for a, b, stride in zip(sizes, shape.channels, shape.strides, strict=False))
        )
        side = shape.image
        for stride in shape.strides:
            side = -(-side // stride)
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(shape.channels[-1] * side * side, shape.width), nn.ReLU()
        )

    def forward(self, image: Tensor) -> Tensor:
        """Features (n, width)."""
        features: Tensor = self.dense(self.convolutions(image))
        return features

    def pooled(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The picture itself, (n, 9), and the maps of the first and the last convolution, (n, 2 × (first + last))."""
        first = self.convolutions[0](image)
        last = self.convolutions[1:](first)
        own = torch.cat([*channel_moments(image, floor=1e-5), _sharpness(image)], 1)
        return own, torch.cat([*channel_moments(first, floor=1e-3), *channel_moments(last, floor=1e-3)], 1)


class ImageNet(nn.Module):
    """One image → logits (n, labels)."""

    def __init__(self, shape: Shape, labels: int) -> None:
        super().__init__()
        self.encoder = ImageEncoder(shape)
        self.head = dense(shape.width, shape.head, labels)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return self.fuse(self.encode(image))

    def encode(self, image: Tensor) -> Tensor:
        """Features (n, width)."""
        features: Tensor = self.encoder(image)
        return features

    def fuse(self, features: Tensor) -> Tensor:
        """Logits from features."""
        logits: Tensor = self.head(features)
        return logits

    def hidden(self, image: Tensor) -> Tensor:
        """What the last layer decides by."""
        hidden: Tensor = self.head[:-1](self.encode(image))
        return hidden

    def adapters(self) -> list[nn.Module]:
        """All behind the picture's features."""
        return [self.head]

    def pooled(self, image: Tensor) -> tuple[Tensor, ...]:
        """Features of the support distances."""
        return self.encoder.pooled(image)


class ImageTextNet(nn.Module):
    """One image and one text as hashed words → logits (n, labels). The question gates the image's features."""

    def __init__(self, shape: Shape, labels: int) -> None:
        super().__init__()
        self.encoder = ImageEncoder(shape)
        self.question = dense(shape.words, *[shape.width] * shape.word_layers)
        self.head = dense(2 * shape.width, shape.head, labels)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits."""
        return self.fuse(self.encode(image), text)

    def encode(self, image: Tensor) -> Tensor:
        """Features (n, width) of the image."""
        features: Tensor = self.encoder(image)
        return features

    def fuse(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits from an image's features and a question's words."""
        logits: Tensor = self.head(self._joined(features, text))
        return logits

    def hidden(self, image: Tensor, text: Tensor) -> Tensor:
        """What the last layer decides by."""
        hidden: Tensor = self.head[:-1](self._joined(self.encode(image), text))
        return hidden

    def adapters(self) -> list[nn.Module]:
        """All but what encodes the picture."""
        return [self.question, self.head]

    def _joined(self, features: Tensor, text: Tensor) -> Tensor:
        question = self.question(text)
        return torch.cat([features * question, question], 1)

    def pooled(self, image: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Features of the support distances: the image's alone."""
        del text
        return self.encoder.pooled(image)


def channel_moments(maps: Tensor, *, floor: float) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of each map, (n, channels) each. The floor bounds the logarithm of a flat map, and INT8's noise in it."""
    mean = maps.mean((2, 3), keepdim=True)
    away = maps - mean
    return mean.flatten(1), torch.log((away * away).mean((2, 3)) + floor)


def _sharpness(image: Tensor) -> Tensor:
    """Log of the mean squared step from pixel to pixel, (n, channels): noise and blur show here."""
    down, right = image[:, :, 1:] - image[:, :, :-1], image[:, :, :, 1:] - image[:, :, :, :-1]
    return torch.log((down * down).mean((2, 3)) + (right * right).mean((2, 3)) + 1e-5)


def convolution(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """3 × 3, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them, none behind the last."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())
