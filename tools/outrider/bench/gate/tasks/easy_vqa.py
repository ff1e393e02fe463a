"""Questions about pictures, through the demo's camera, asked of the very bundles that the demo ships. A strong large model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from outrider.bench.gate.rows import Floats, Foreign, Measured, Rows
from outrider.bench.gate.tasks.base import GateTask
from outrider.demo.dataset import Question, question_only_accuracy
from outrider.demo.foreign import FOREIGN, altered
from outrider.demo.models import make_models
from outrider.demo.world import QUESTIONS_PLAYED, World, make_world
from outrider.progress import Tell
from outrider_engine.model import Model, load_model
from outrider_export.asking import examples
from outrider_export.checkpoint import checkpoint_path, load_checkpoint
from outrider_export.data import Example, Table, Tensors

TUNING_QUESTIONS = 4
"""Of each tuning picture: a choice may be made on rows that are not independent, a certificate may not."""
STRANGE_PICTURES = 150
_BATCH = 128
_VIEW = 4


def measure(seed: int, data: Path | None, folder: Path, tell: Tell) -> Measured:
    """Trains and exports both models as the demo does, or takes the kept ones of this seed, and asks them."""
    del data
    world = make_world(seed, tell)
    models = make_models(world, folder, tell, threads=1)
    small, large = load_model(models.small, threads=1), load_model(models.large, threads=1)
    asked = _Asked(world=world, small=small, large=large, checkpoint=checkpoint_path(models.small))
    test = world.questions(world.deal.test, QUESTIONS_PLAYED)
    tell("asking", 0.1)
    return Measured(
        tuning=asked.rows(world.questions(world.deal.tuning, TUNING_QUESTIONS)),
        certification=asked.rows(world.questions(world.deal.certification, 1)),
        test=asked.rows(test),
        majority=question_only_accuracy(world.questions(world.deal.large), test),
        foreign={kind: asked.foreign(world.questions(world.deal.test[:STRANGE_PICTURES], 1), kind) for kind in FOREIGN},
    )


class _Asked:
    def __init__(self, *, world: World, small: Model, large: Model, checkpoint: Path) -> None:
        self._world = world
        self._small = small
        self._large = large
        self._module, _ = load_checkpoint(checkpoint, world.task)

    def rows(self, questions: list[Question]) -> Rows:
        table = self._world.table(questions)
        tensors = table.tensors(self._small.manifest.inputs, self._world.task.inputs)
        logits, support = _said(self._small, tensors)
        captures = [self._world.captures[question.picture] for question in questions]
        return Rows(
            small=logits,
            large=_distribution(self._large, table.tensors(self._large.manifest.inputs, self._world.task.inputs)),
            labels=table.labels,
            groups=np.asarray(table.groups),
            payload_bytes=np.asarray(
                [len(image) + len(question.text) for image, question in zip(captures, questions, strict=True)], np.int64
            ),
            embedding=_last_features(self._module, tensors),
            glance=_glance(tensors),
            support=support,
        )

    def foreign(self, questions: Sequence[Question], kind: str) -> Foreign:
        table = Table.from_examples(
            Example({"image": altered(self._world.captures[question.picture], kind), "question": question.text}, -1, "")
            for question in questions
        )
        logits, support = _said(self._small, table.tensors(self._small.manifest.inputs, self._world.task.inputs))
        return Foreign(small=logits, support=support)


def _said(model: Model, tensors: Tensors) -> tuple[Floats, Floats]:
    rows = examples(tensors)
    found = [each for start in range(0, len(rows), _BATCH) for each in model.infer(rows[start : start + _BATCH])]
    support = [np.inf if each.support is None else each.support for each in found]
    return np.stack([each.logits for each in found]).astype(np.float64), np.asarray(support, np.float64)


def _distribution(model: Model, tensors: Tensors) -> Floats:
    rows = examples(tensors)
    found = [each for start in range(0, len(rows), _BATCH) for each in model.infer(rows[start : start + _BATCH])]
    return np.stack([each.probabilities for each in found]).astype(np.float64)


def _last_features(module: nn.Module, tensors: Tensors) -> Floats:
    """(n, d) what the last linear layer of the unquantized module reads."""
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    caught: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _layer, inputs: caught.append(inputs[0]))
    with torch.inference_mode():
        for batch in tensors.batches(_BATCH):
            module(*map(torch.from_numpy, batch.values()))
    hook.remove()
    return np.asarray(torch.cat(caught).double().numpy(), np.float64)


def _glance(tensors: Tensors) -> Floats:
    """Four by four means of each colour, and the question's words."""
    image, words = (values[tensors.index[name]] for name, values in tensors.values.items())
    n, channels, height, width = image.shape
    blocks = image.reshape(n, channels, _VIEW, height // _VIEW, _VIEW, width // _VIEW).mean(axis=(3, 5))
    return np.concatenate([blocks.reshape(n, -1), words.reshape(n, -1)], axis=1).astype(np.float64)


TASK = GateTask(
    name="easy-vqa",
    about="questions about pictures through the demo's camera; the demo's own INT8 bundles; a strong large model",
    risk=0.05,
    delta=0.05,
    measure=measure,
    made_by=(
        __name__,
        "outrider.demo.world",
        "outrider.demo.dataset",
        "outrider.demo.cameras",
        "outrider.demo.models",
        "outrider_export.students",
        "outrider_export.training",
        "outrider_export.support",
        "outrider_export.networks",
    ),
    needs=("easy-vqa", "torch"),
)
TASKS = {TASK.name: TASK}
