"""Supervised training and prediction of a torch module on prepared tensors. Knows no files, tasks or bundles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from outrider_export.augment import Capture, Jitter
from outrider_export.data import Progress, Tensors
from outrider_export.networks import Splits

NO_JITTER = Jitter()
_ENCODE_ROWS = 256
_FUSE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a module is trained: AdamW under a one-cycle schedule, batches of distinct first inputs (images)."""

    epochs: int
    subjects: int
    """Distinct first inputs a step."""
    rows_per_subject: int | None = None
    """Rows (questions) drawn of each a step; None: all it has."""
    learning_rate: float
    weight_decay: float
    capture: Capture | None = None
    """A random camera in front of every image, drawn once an epoch."""
    jitter: Jitter = NO_JITTER
    auxiliary_weight: float = 0.5
    max_steps: int = 10_000
    """Epochs are cut down to this many steps, so that a large data set ends as well."""

    def mirrored(self) -> "TrainingPlan":
        """The same plan for pictures in which left and right mean the same: every second epoch sees them mirrored."""
        return replace(self, jitter=replace(self.jitter, flip=True))


class _Batch(NamedTuple):
    subjects: NDArray[np.int64]
    rows: NDArray[np.int64]
    place: Tensor
    """Row → position among ``subjects``."""


def train(
    module: nn.Module,
    tensors: Tensors,
    plan: TrainingPlan,
    *,
    seed: int,
    auxiliary: Sequence[NDArray[np.int64]] = (),
    progress: Progress | None = None,
) -> None:
    """Train ``module`` in place on the labelled rows; the same seed and thread count give the same weights.

    ``auxiliary`` are further targets, each (rows,) with −1 for unknown, that the encoded first input should give away
    (a property that the answers imply): each gets a linear head while training, which is thrown away. They need a module
    that `Splits`, and make a fused image-text net train in a quarter of the time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _Training(module, tensors, plan, seed, auxiliary).run(progress)
    module.eval()


class _Training:
    def __init__(
        self,
        module: nn.Module,
        tensors: Tensors,
        plan: TrainingPlan,
        seed: int,
        auxiliary: Sequence[NDArray[np.int64]],
    ) -> None:
        labelled = np.flatnonzero(tensors.labels >= 0)
        self.module, self.plan = module, plan
        self.tensors = tensors.take(labelled)
        self.labels = torch.from_numpy(self.tensors.labels)
        self.first = torch.from_numpy(self.tensors.values[tensors.lead])
        self.subject = self.tensors.index[tensors.lead]
        self.choice = np.random.default_rng(seed)
        self.chance = Generator().manual_seed(seed)
        self.targets = [self._by_subject(target[labelled]) for target in auxiliary]
        self.heads = nn.ModuleList(self._auxiliary_heads())

    def _by_subject(self, target: NDArray[np.int64]) -> Tensor:
        known = np.full(len(self.first), -1, np.int64)
        np.maximum.at(known, self.subject, target)
        return torch.from_numpy(known)

    def _auxiliary_heads(self) -> Iterator[nn.Module]:
        if not self.targets:
            return
        if not isinstance(self.module, Splits):
            raise TypeError(f"auxiliary targets need encode() and fuse(), which {type(self.module).__name__} lacks")
        with torch.no_grad():
            width = self.module.eval().encode(self.first[:1]).shape[1]
        yield from (nn.Linear(width, int(target.max()) + 1) for target in self.targets)

    def run(self, progress: Progress | None) -> None:
        plan = self.plan
        steps_per_epoch = -(-len(np.unique(self.subject)) // plan.subjects)
        epochs = max(1, min(plan.epochs, plan.max_steps // steps_per_epoch))
        parameters = [*self.module.parameters(), *self.heads.parameters()]
        optimiser = torch.optim.AdamW(parameters, plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, plan.learning_rate, total_steps=epochs * steps_per_epoch
        )
        self.module.train()
        for epoch in range(epochs):
            for batch in _batches(self.subject, plan.subjects, plan.rows_per_subject, self.choice):
                descend(self._loss(batch, mirrored=epoch % 2 == 1), optimiser, schedule)
            if progress is not None:
                progress("training", (epoch + 1) / epochs)

    def _loss(self, batch: _Batch, *, mirrored: bool) -> Tensor:
        first = self.first[batch.subjects]
        if first.ndim == 4:
            if self.plan.capture is not None:
                first = self.plan.capture(first, self.chance)
            first = self.plan.jitter(first, self.chance, mirrored=mirrored)
        rest = _rest(self.tensors, batch.rows)
        if not isinstance(self.module, Splits):
            return functional.cross_entropy(self.module(first[batch.place], *rest), self.labels[batch.rows])
        features = self.module.encode(first)
        loss = functional.cross_entropy(self.module.fuse(features[batch.place], *rest), self.labels[batch.rows])
        for head, target in zip(self.heads, self.targets, strict=True):
            wanted = target[batch.subjects]
            if bool((wanted >= 0).any()):
                loss = loss + self.plan.auxiliary_weight * functional.cross_entropy(
                    head(features), wanted, ignore_index=-1
                )
        return loss


def descend(loss: Tensor, optimiser: Optimizer, schedule: LRScheduler) -> None:
    """One optimiser step down ``loss``, and one of the schedule."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
    optimiser.step()
    schedule.step()


def _batches(
    subject: NDArray[np.int64], subjects_a_step: int, rows_a_subject: int | None, choice: np.random.Generator
) -> Iterator[_Batch]:
    """One epoch: every subject once, in random order, with that many of its rows (``subject``: row → subject)."""
    known, dense = np.unique(subject, return_inverse=True)
    order = choice.permutation(len(known))
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    rows = choice.permutation(len(subject))
    rows = rows[np.argsort(position[dense[rows]], kind="stable")]
    at = position[dense[rows]]
    if rows_a_subject is not None:
        kept = np.arange(len(rows)) - np.searchsorted(at, at) < rows_a_subject
        rows, at = rows[kept], at[kept]
    for start in range(0, len(order), subjects_a_step):
        low, high = np.searchsorted(at, [start, start + subjects_a_step])
        chosen = known[order[start : start + subjects_a_step]]
        yield _Batch(chosen, rows[low:high], torch.from_numpy(at[low:high] - start))


def _rest(tensors: Tensors, rows: NDArray[np.int64] | slice) -> list[Tensor]:
    names = [name for name in tensors.values if name != tensors.lead]
    return [torch.from_numpy(tensors.values[name][tensors.index[name][rows]]) for name in names]


def predict(module: nn.Module, tensors: Tensors) -> NDArray[np.float32]:
    """Logits (rows, labels) in evaluation mode; a shared first input is encoded once."""
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        out = _predict_split(module, tensors) if isinstance(module, Splits) else _predict_rows(module, tensors)
    module.train(was_training)
    logits: NDArray[np.float32] = out.numpy()
    return logits


def _predict_rows(module: nn.Module, tensors: Tensors) -> Tensor:
    batches = tensors.batches(_ENCODE_ROWS)
    return torch.cat([module(*(torch.from_numpy(feed) for feed in batch.values())) for batch in batches])


def _predict_split(module: Splits, tensors: Tensors) -> Tensor:
    used, place = np.unique(tensors.index[tensors.lead], return_inverse=True)
    values = tensors.values[tensors.lead]
    encoded = torch.cat(
        [
            module.encode(torch.from_numpy(values[used[start : start + _ENCODE_ROWS]]))
            for start in range(0, len(used), _ENCODE_ROWS)
        ]
    )
    chunks = (slice(start, start + _FUSE_ROWS) for start in range(0, len(tensors), _FUSE_ROWS))
    return torch.cat([module.fuse(encoded[place[rows]], *_rest(tensors, rows)) for rows in chunks])
