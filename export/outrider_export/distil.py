"""Two-stage confidence distillation (Data Shunt+, AAAI 2024, arXiv 2406.15471): the large model's answers become a better
small model. Works on prepared tensors and distributions; chooses no rows and judges no result.

D1: inputs the deployed model S0 was unsure of and the calibrated large model was sure of; target: the large model's
distribution. D2: inputs S0 was sure of; target: S0's own distribution, so that nothing is forgotten. Each batch of D1 is
followed by one of D2 and one of labelled rehearsal: three optimiser steps, not one weighted sum. Deviations from the paper,
as measured (its learning rate and seven epochs move a small network by 0.9 points, these by 8): soft targets at a
temperature, one-cycle learning rate, labelled rehearsal. Its released code takes the cross-entropy of probabilities (a double
softmax); this does not.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from outrider_export.augment import translated
from outrider_export.data import Progress, Tensors
from outrider_export.networks import Adapts
from outrider_export.training import descend
from outrider_wire.errors import OperatorConfigError, RuleRefusalError

FEWEST_ROWS = 64
"""Below this many D1 rows there is not one batch; a promotion gate should ask for several hundred."""


Update = Literal["full", "adapters"]


@dataclass(frozen=True, kw_only=True)
class DistilPlan:
    """One round of distillation."""

    targets: Literal["soft", "hard"] = "soft"
    """D1's target: the large model's distribution at ``temperature``, or its answer."""
    temperature: float = 2.0
    epochs: int = 15
    batch: int = 64
    learning_rate: float = 2e-3
    rehearse_own: bool = True
    """Stage 2. Without it a student forgets 4 % of what it knew."""
    rehearse_labels: bool = True
    update: Update = "full"
    """What learns: every layer, or those alone that `outrider_export.networks.Adapts` names (of a module that names none, its last
    linear layer); the rest then stays as it is to the bit, batch statistics included."""
    translate: int = 3
    """Pixels that a batch of images is moved by, at most."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Rows with the distribution that they should get."""

    tensors: Tensors
    probabilities: NDArray[np.float64]
    """(rows, labels), calibrated."""


def distil(
    student: nn.Module,
    *,
    unsure: Taught,
    sure: Taught | None,
    labelled: Tensors | None,
    plan: DistilPlan,
    seed: int,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of ``student`` after one round, in evaluation mode; ``student`` stays as it is.

    Args:
        student: the deployed model S0.
        unsure: D1, with the large model's distributions.
        sure: D2, with S0's own; None: no stage 2.
        labelled: rows with labels to rehearse; None: none.
        plan: how.
        seed: of batches and augmentation.
        temperature: S0's calibration temperature: losses are taken on calibrated logits, as targets are.
        progress: told after each epoch.

    Raises:
        RuleRefusalError: fewer than `FEWEST_ROWS` rows in D1.
    """
    if len(unsure.tensors) < FEWEST_ROWS:
        raise RuleRefusalError(
            f"the large model is sure of {len(unsure.tensors)} inputs that the small one was not, fewer than {FEWEST_ROWS}",
            reason="too_few_confident_rows",
            fix="collect more escalations",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = copy.deepcopy(student).train()
        if plan.update == "adapters":
            _leave_learning(module, adapters_of(module))
        _Round(module, plan, temperature, seed).run(unsure, sure, labelled, progress)
    return module.eval().requires_grad_()


def adapters_of(module: nn.Module) -> list[nn.Module]:
    """What a small round trains of it: what it names itself, or its last linear layer.

    Raises:
        OperatorConfigError: it names nothing and has no linear layer.
    """
    if isinstance(module, Adapts):
        return module.adapters()
    linear: list[nn.Module] = [each for each in module.modules() if isinstance(each, nn.Linear)]
    if not linear:
        raise OperatorConfigError(
            "the model names no layers for a small round to train, and has no linear one",
            reason="no_adapters",
            fix="give it adapters(), or train all of it: --update full",
        )
    return linear[-1:]


def _leave_learning(module: nn.Module, learning: Sequence[nn.Module]) -> None:
    """Only these go on: the others are as in use, without dropout, and their batch statistics stay."""
    module.eval().requires_grad_(requires_grad=False)
    for each in learning:
        each.train().requires_grad_()


class _Round:
    def __init__(self, module: nn.Module, plan: DistilPlan, temperature: float, seed: int) -> None:
        self.module, self.plan, self.temperature = module, plan, temperature
        self.choice = np.random.default_rng(seed)
        self.chance = Generator().manual_seed(seed)

    def run(self, unsure: Taught, sure: Taught | None, labelled: Tensors | None, progress: Progress | None) -> None:
        plan = self.plan
        sure = sure if plan.rehearse_own and sure is not None and len(sure.tensors) else None
        labelled = labelled if plan.rehearse_labels and labelled is not None and len(labelled) else None
        rows = len(unsure.tensors)
        steps = plan.epochs * (rows // plan.batch or 1) * (1 + (sure is not None) + (labelled is not None))
        learning = [each for each in self.module.parameters() if each.requires_grad]
        self.optimiser = torch.optim.Adam(learning, plan.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, plan.learning_rate, total_steps=steps)
        for epoch in range(plan.epochs):
            order = self.choice.permutation(rows)
            for start in range(0, max(rows - plan.batch, 0) + 1, plan.batch):
                self._step(self._from_large(unsure, order[start : start + plan.batch]))
                if sure is not None:
                    self._step(self._soft(sure, self._drawn(len(sure.tensors)), 1.0))
                if labelled is not None:
                    self._step(self._labelled(labelled, self._drawn(len(labelled))))
            if progress is not None:
                progress("distilling", (epoch + 1) / plan.epochs)

    def _drawn(self, rows: int) -> NDArray[np.int64]:
        return self.choice.choice(rows, min(self.plan.batch, rows), replace=False)

    def _step(self, loss: Tensor) -> None:
        descend(loss, self.optimiser, self.schedule)

    def _logits(self, tensors: Tensors, rows: NDArray[np.int64]) -> Tensor:
        """Calibrated logits of augmented rows."""
        arrays = [torch.from_numpy(array) for array in tensors.batch(rows).values()]
        moved = [
            translated(array, self.plan.translate, self.chance) if array.ndim == 4 and self.plan.translate else array
            for array in arrays
        ]
        logits: Tensor = self.module(*moved) / self.temperature
        return logits

    def _from_large(self, taught: Taught, rows: NDArray[np.int64]) -> Tensor:
        if self.plan.targets == "soft":
            return self._soft(taught, rows, self.plan.temperature)
        answers = torch.from_numpy(taught.probabilities[rows].argmax(1))
        return functional.cross_entropy(self._logits(taught.tensors, rows), answers)

    def _soft(self, taught: Taught, rows: NDArray[np.int64], temperature: float) -> Tensor:
        """T² · KL(p^{1/T} ‖ student^{1/T}) (Hinton et al. 2015, arXiv 1503.02531)."""
        wanted = torch.from_numpy(taught.probabilities[rows]).float().clamp_min(1e-9) ** (1 / temperature)
        wanted = wanted / wanted.sum(1, keepdim=True)
        found = functional.log_softmax(self._logits(taught.tensors, rows) / temperature, 1)
        return temperature**2 * functional.kl_div(found, wanted, reduction="batchmean")

    def _labelled(self, tensors: Tensors, rows: NDArray[np.int64]) -> Tensor:
        return functional.cross_entropy(self._logits(tensors, rows), torch.from_numpy(tensors.labels[rows]))
