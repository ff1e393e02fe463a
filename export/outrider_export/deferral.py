"""The learned deferral score: is the small model's answer right, seen from what it computes anyway? Trains a head; chooses no rows.

The head is the log-odds of the likeliest label, plus a small correction learnt from the ranked distribution and from what the last
layer decides by. Its target is whether the small model is right: by a person's label, or else the calibrated probability that the
large model gives to the small one's answer. Three things were measured (docs/LOG.md, 2026-11-26) and are built in:

* Only rows that a model was not trained on teach anything: on memorised rows it is hardly ever wrong, and a head that was trained on
  them ranked no better than the plain scores. What `fit_head` gets may come from another model that began with the same weights, for
  its features mean the same (`outrider_cloud.learning.candidate.sister_pairs`).
* The correction starts at nothing, so that a head of few rows, or of escalated rows alone, stays close to the plain confidence.
  Without that, a head of escalated rows alone ranked worse than it.
* "Small right" ranks errors better than "not (large right and small wrong)", the target of Mozannar & Sontag 2020 (arXiv 2006.01862),
  even where the large model is often wrong, and a certificate is about that risk.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from outrider_export.data import Tensors
from outrider_export.networks import Reveals
from outrider_wire.calibration import calibrated, fit_temperature
from outrider_wire.manifest import Calibration
from outrider_wire.scores import SCORES, area_under_risk_coverage

FEWEST_ROWS = 400
FEWEST_GROUPS = 100
"""Below these a head did no better than the plain scores."""
FEWEST_OF_A_KIND = 30
"""Rows that the model has right, and that it has wrong."""
LEAST_GAIN = 0.02
"""Share of the area under the risk–coverage curve that a head must save on tuning rows to be worth a device's time."""
MOST_PARAMETERS = 2000
_WIDTH = 16
_RANKED = 3
_FARTHEST = 6.0
"""Standard deviations beyond which a feature says no more."""
_ROWS = 256
_EPOCHS = 60
_PATIENCE = 8
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 0.3
_HELD_OUT = 5
"""One group in so many decides when training stops."""


class Seen(NamedTuple):
    """What a module makes of rows."""

    logits: NDArray[np.float32]
    """(n, labels)"""
    hidden: NDArray[np.float32] | None
    """(n, d) what its last layer decides by; None: it does not reveal that."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What a model that was trained on none of these rows says of them, and whether it is right."""

    seen: Seen
    right: NDArray[np.float64]
    """(n,) in [0, 1]: how probably its answer is right."""
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.right)

    def take(self, rows: NDArray[np.int64]) -> "Pairs":
        """Of these rows."""
        hidden = self.seen.hidden
        seen = Seen(self.seen.logits[rows], hidden[rows] if hidden is not None else None)
        return Pairs(seen=seen, right=self.right[rows], groups=[self.groups[row] for row in rows])

    @property
    def shortage(self) -> str:
        """Why they are too few to learn from; '' when they are not."""
        groups = len(set(self.groups))
        if len(self) < FEWEST_ROWS or groups < FEWEST_GROUPS:
            return f"{len(self)} rows of {groups} groups, fewer than {FEWEST_ROWS} of {FEWEST_GROUPS}"
        fewest = min(float(self.right.sum()), float((1 - self.right).sum()))
        return f"only {fewest:.0f} rows right, or wrong" if fewest < FEWEST_OF_A_KIND else ""


def see(module: nn.Module, tensors: Tensors) -> Seen:
    """Logits and, where the module `Reveals` it, what they are decided by, of all rows in evaluation mode."""
    module.eval()
    logits: list[Tensor] = []
    hidden: list[Tensor] = []
    with torch.inference_mode():
        for batch in tensors.batches(_ROWS):
            feeds = [torch.from_numpy(array) for array in batch.values()]
            logits.append(module(*feeds))
            if isinstance(module, Reveals):
                hidden.append(module.hidden(*feeds))
    return Seen(torch.cat(logits).numpy(), torch.cat(hidden).numpy() if hidden else None)


def make_pairs(module: nn.Module, tensors: Tensors, large: NDArray[np.float64] | None = None) -> Pairs:
    """Pairs of rows that ``module`` was not trained on.

    Args:
        module: the model whose answers are judged.
        tensors: rows; a label that is there counts more than what the large model says.
        large: (n, labels) its calibrated distributions; NaN in rows that it was not asked about; None: all rows are labelled.
    """
    seen = see(module, tensors)
    answers = seen.logits.argmax(1)
    unlabelled = np.flatnonzero(tensors.labels < 0)
    right = (answers == tensors.labels).astype(np.float64)
    right[unlabelled] = np.nan
    if large is not None:
        right[unlabelled] = large[unlabelled, answers[unlabelled]]
    pairs = Pairs(seen=seen, right=right, groups=tensors.groups)
    return pairs.take(np.flatnonzero(np.isfinite(right)))


def join(many: Sequence[Pairs]) -> Pairs:
    """All of them, of models whose features mean the same."""
    hidden = [pairs.seen.hidden for pairs in many if pairs.seen.hidden is not None]
    seen = Seen(np.concatenate([pairs.seen.logits for pairs in many]), np.concatenate(hidden) if hidden else None)
    return Pairs(
        seen=seen,
        right=np.concatenate([pairs.right for pairs in many]),
        groups=[group for pairs in many for group in pairs.groups],
    )


class Head(nn.Module):
    """(logits (n, labels), hidden (n, d) or None) → score (n,), higher where the answer is more surely right."""

    def __init__(self, labels: int, hidden: int) -> None:
        super().__init__()
        ranked = min(_RANKED, labels)
        width = 2 * ranked + 3 + hidden
        if width + 2 > MOST_PARAMETERS:
            hidden, width = 0, width - hidden
        self.reads_hidden = hidden > 0
        self.ranked = ranked
        between = max(1, min(_WIDTH, (MOST_PARAMETERS - 3) // (width + 2)))
        self.centre = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(width), requires_grad=False)
        self.slope = nn.Parameter(torch.ones(1))
        self.level = nn.Parameter(torch.zeros(1))
        self.first = nn.Linear(width, between)
        self.second = nn.Linear(between, 1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, logits: Tensor, hidden: Tensor | None) -> Tensor:
        """Score (n,): the logarithm of the odds that the answer is right, as far as the training rows were like these."""
        odds, signals = self.signals(logits, hidden)
        return self.score(odds, signals)

    def signals(self, logits: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """The log-odds of the likeliest label (n,), and everything else that the score is taken from (n, width).

        That is the surest labels' probabilities and their logarithms, margin, entropy, energy, and the hidden features.
        """
        ranked = logits.topk(logits.shape[1], dim=1).values
        odds = ranked[:, 0] - torch.logsumexp(ranked[:, 1:], 1)
        energy = torch.logsumexp(logits, 1, keepdim=True)
        logs = ranked - energy
        shares = logs.exp()
        entropy = (shares * logs).sum(1, keepdim=True)
        parts = [logs[:, : self.ranked], shares[:, : self.ranked], shares[:, :1] - shares[:, 1:2], entropy, energy]
        if self.reads_hidden:
            parts.append(cast("Tensor", hidden))
        return odds, torch.cat(parts, 1)

    def score(self, odds: Tensor, signals: Tensor) -> Tensor:
        """Score (n,) from what `signals` gives."""
        away = ((signals - self.centre) / self.spread).clamp(-_FARTHEST, _FARTHEST)
        score: Tensor = odds * self.slope + self.level + self.second(torch.relu(self.first(away))).squeeze(1)
        return score


def fit_head(pairs: Pairs, *, seed: int) -> Head:
    """A head for these pairs; the same pairs, seed and thread count give the same weights.

    Cross-entropy, L2 on the correction, and stopped when groups that were held out get no better.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = pairs.seen.hidden
        head = Head(pairs.seen.logits.shape[1], hidden.shape[1] if hidden is not None else 0)
        choice = np.random.default_rng(seed)
        groups = np.asarray(pairs.groups, np.str_)
        names = choice.permutation(np.unique(groups))
        held = np.isin(groups, names[: max(1, len(names) // _HELD_OUT)])
        rows, held_rows = (_rows(head, pairs.take(np.flatnonzero(which))) for which in (~held, held))
        with torch.no_grad():
            head.centre.copy_(rows.signals.mean(0))
            head.spread.copy_(rows.signals.std(0) + 1e-6)
        _descend(head, rows, held_rows, choice)
    return head.eval()


class _Rows(NamedTuple):
    odds: Tensor
    signals: Tensor
    right: Tensor


def _rows(head: Head, pairs: Pairs) -> _Rows:
    with torch.no_grad():
        return _Rows(*head.signals(*_tensors(pairs.seen)), torch.from_numpy(pairs.right).float())


def _tensors(seen: Seen) -> tuple[Tensor, Tensor | None]:
    return torch.from_numpy(seen.logits), torch.from_numpy(seen.hidden) if seen.hidden is not None else None


def _descend(head: Head, rows: _Rows, held: _Rows, choice: np.random.Generator) -> None:
    decayed = [head.first.weight, head.second.weight]
    free = [head.slope, head.level, head.first.bias, head.second.bias]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}],
        _LEARNING_RATE,
        fused=True,
    )
    best, found_at, weights = float("inf"), 0, copy.deepcopy(head.state_dict())
    for epoch in range(_EPOCHS):
        order = torch.from_numpy(choice.permutation(len(rows.right)))
        for start in range(0, len(order), _ROWS):
            optimiser.zero_grad()
            drawn = order[start : start + _ROWS]
            loss = _loss(head, _Rows(*(each[drawn] for each in rows)))
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            optimiser.step()
        with torch.no_grad():
            found = float(_loss(head, held))
        if found < best:
            best, found_at, weights = found, epoch, copy.deepcopy(head.state_dict())
        elif epoch - found_at >= _PATIENCE:
            break
    head.load_state_dict(weights)


def _loss(head: Head, rows: _Rows) -> Tensor:
    return functional.binary_cross_entropy_with_logits(head.score(rows.odds, rows.signals), rows.right)


class Learned(NamedTuple):
    """A head that is worth its time, or why there is none."""

    head: Head | None
    says: str


def learn(pairs: Pairs, module: nn.Module, tuning: Tensors, *, seed: int) -> Learned:
    """Trains a head, and keeps it only if it ranks the errors of ``module`` on labelled tuning rows better than every plain score."""
    if pairs.shortage:
        return Learned(None, f"left out: {pairs.shortage}")
    head = fit_head(pairs, seed=seed)
    labelled = tuning.take(np.flatnonzero(tuning.labels >= 0))
    seen, labels = see(module, labelled), labelled.labels
    right = seen.logits.argmax(1) == labels
    logits = seen.logits.astype(np.float64)
    shares = calibrated(logits, Calibration(temperature=fit_temperature(logits, labels)))
    plain = min(area_under_risk_coverage(score(logits, shares), right) for score in SCORES.values())
    with torch.no_grad():
        own = area_under_risk_coverage(head(*_tensors(seen)).numpy(), right)
    says = f"area {own:.5f} on tuning rows, {plain:.5f} by the best plain score; learnt from {len(pairs)} rows"
    if own > (1 - LEAST_GAIN) * plain:
        return Learned(None, f"left out: {says}")
    return Learned(head, says)


class Deferring(nn.Module):
    """What is exported with a head: the outputs of ``deployed``, then the score (n,)."""

    def __init__(self, deployed: nn.Module, module: nn.Module, head: Head) -> None:
        super().__init__()
        self.deployed = deployed
        self.module = module
        self.head = head

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits (n, labels), support (n,) where ``deployed`` gives it, and the score (n,)."""
        said = self.deployed(*tensors)
        outputs = said if isinstance(said, tuple) else (said,)
        hidden = cast("Reveals", self.module).hidden(*tensors) if self.head.reads_hidden else None
        return (*outputs, self.head(outputs[0], hidden))
