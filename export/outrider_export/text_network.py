"""The shipped student of texts: one hidden layer over hashed words and letters. Knows no task and no training.

``pooled``, ``hidden``, ``encode`` and ``fuse`` as in `outrider_export.networks`.
"""

import torch
from torch import Tensor, nn

from outrider_export.networks import dense


class TextNet(nn.Module):
    """Counts of hashed words and letters (n, buckets) → logits (n, labels). Counts are taken by their square root, at unit length."""

    def __init__(self, buckets: int, width: int, labels: int) -> None:
        super().__init__()
        self.words = nn.Sequential(nn.Dropout(0.3), nn.Linear(buckets, width), nn.ReLU(), nn.Dropout(0.3))
        self.head = dense(width, labels)

    def forward(self, text: Tensor) -> Tensor:
        """Logits."""
        return self.fuse(self.encode(text))

    def encode(self, text: Tensor) -> Tensor:
        """Features (n, width)."""
        counts = text.clamp_min(0.0).sqrt()
        # A text without a known word stays zero.
        features: Tensor = self.words(counts / (counts.square().sum(1, keepdim=True) + 1e-6).sqrt())
        return features

    def fuse(self, features: Tensor) -> Tensor:
        """Logits from features."""
        logits: Tensor = self.head(features)
        return logits

    def hidden(self, text: Tensor) -> Tensor:
        """What the last layer decides by: the features."""
        return self.encode(text)

    def adapters(self) -> list[nn.Module]:
        """The last layer: the support distance is taken on what the words come to."""
        return [self.head]

    def pooled(self, text: Tensor) -> tuple[Tensor]:
        """How much of the text the trained words are, and what they say: total, distinct, and the features."""
        counts = text.clamp_min(0.0)
        total = torch.log1p(counts.sum(1, keepdim=True))
        distinct = torch.log1p((counts > 0).to(counts.dtype).sum(1, keepdim=True))
        return (torch.cat([total, distinct, self.encode(text)], 1),)
