"""A linear head on a frozen encoder's features: multinomial logistic regression, trained in seconds. Knows no files."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from outrider_engine.session import OrtSession
from outrider_export.data import Tensors
from outrider_export.parity import run_rows
from outrider_wire.errors import RuleRefusalError

_STEPS = 100
_DECAY = 1e-3
"""Of the weights on standardised features: what keeps a few hundred rows of many features from being learnt by heart."""


class Probe(NamedTuple):
    """Logits are weight · features + bias."""

    weight: NDArray[np.float32]
    """(labels, d)"""
    bias: NDArray[np.float32]
    """(labels,)"""


def fit_probe(encoder: bytes, features: str, rows: Tensors, labels: int) -> Probe:
    """The head that the labelled ``rows`` ask for, on the encoder's output ``features``; the same rows give the same head.

    Raises:
        RuleRefusalError: a label without a row.
    """
    known = rows.take(np.flatnonzero(rows.labels >= 0))
    if len(set(known.labels.tolist())) < labels:
        raise RuleRefusalError(
            f"{labels - len(set(known.labels.tolist()))} of {labels} labels have no row to train a head on",
            reason="too_few_rows",
            fix="bring rows of every label",
        )
    found = run_rows(OrtSession(encoder), known)[features].astype(np.float64)
    mean, spread = found.mean(0), found.std(0) + 1e-6
    weight, bias = _regression((found - mean) / spread, known.labels, labels)
    scaled = weight / spread
    return Probe(scaled.astype(np.float32), (bias - scaled @ mean).astype(np.float32))


def _regression(
    features: NDArray[np.float64], answers: NDArray[np.int64], labels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = torch.from_numpy(features), torch.from_numpy(answers)
    head = nn.Linear(features.shape[1], labels, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(head(x), y) + _DECAY * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]  # as above
    return head.weight.detach().numpy(), head.bias.detach().numpy()
