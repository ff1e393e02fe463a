"""easy-vqa with its two sub-tasks, the picture's colour and shape: device models that answer them, and a large one that is told.

Knows training; measures nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outrider.demo.cameras import DEVICE, capture
from outrider.demo.dataset import COLOURS, SHAPES, Question, attributes
from outrider.demo.world import World, make_world
from outrider_export.augment import Capture, Jitter
from outrider_export.data import Example, Table
from outrider_export.networks import ImageTextNet, Shape
from outrider_export.students import ARCHITECTURES, Architecture, inputs_for, new_module
from outrider_export.training import TrainingPlan, predict, train
from outrider_wire.calibration import fit_temperature, softmax
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.messages import Fact
from outrider_wire.task import AnswerSpace, InputPart, Subtask, Task

SUBTASKS = [Subtask(name="colour", labels=list(COLOURS)), Subtask(name="shape", labels=list(SHAPES))]
FACTS = sum(len(each.labels) for each in SUBTASKS)
_SHAPE = Shape(image=32, channels=(16, 32, 48), strides=(2, 2, 1), width=96, words=192, bigrams=True, head=96)
_FACTS_INPUT = ModelInput(
    part="facts",
    tensor="facts",
    steps=[Step(op="one_hot_facts", args={"subtasks": msgspec.to_builtins(SUBTASKS)})],
    shape=[FACTS],
)


class FactsNet(ImageTextNet):
    """The shipped image-text network, whose question is told together with the facts."""

    def __init__(self, shape: Shape, labels: int) -> None:
        super().__init__(replace(shape, words=shape.words + FACTS), labels)

    def forward(self, image: Tensor, text: Tensor, facts: Tensor) -> Tensor:  # type: ignore[override]  # one input more: the facts
        return self.fuse(self.encode(image), text, facts)

    def fuse(self, features: Tensor, text: Tensor, facts: Tensor) -> Tensor:  # type: ignore[override]  # one input more: the facts
        return super().fuse(features, torch.cat([text, facts], 1))

    def pooled(self, image: Tensor, text: Tensor, facts: Tensor) -> Tensor:  # type: ignore[override]  # one input more: the facts
        return super().pooled(image, text)


LARGE = Architecture(
    name="facts_world:LARGE",
    inputs=lambda task: [*inputs_for(task, _SHAPE), _FACTS_INPUT],
    build=lambda task: FactsNet(_SHAPE, len(task.labels)),
    plan=TrainingPlan(
        epochs=20,
        subjects=64,
        rows_per_subject=8,
        learning_rate=6e-3,
        weight_decay=5e-3,
        capture=Capture(blur=(0.0, 0.75)),
        jitter=Jitter(translate=2),
    ).mirrored(),
)
SMALL = ARCHITECTURES["image-text-small"]
SMALL = replace(SMALL, plan=replace(SMALL.plan.mirrored(), epochs=100))
SUB = ARCHITECTURES["image-small"]
SUB = replace(SUB, plan=replace(SUB.plan.mirrored(), epochs=200))


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A module with its temperature."""

    module: nn.Module
    architecture: Architecture
    task: Task
    temperature: float

    def ask(self, table: Table) -> NDArray[np.float64]:
        """(rows, labels)"""
        tensors = table.tensors(self.architecture.inputs(self.task))
        return softmax(predict(self.module, tensors), self.temperature)


@dataclass(frozen=True, kw_only=True)
class FactsWorld:
    world: World
    task: Task
    small: Asker
    subs: tuple[Asker, Asker]
    large: Asker

    def facts(self, pictures: Sequence[bytes]) -> list[list[Fact]]:
        """What the device answers of each picture."""
        table = _pictures(pictures, [0] * len(pictures))
        said = [sub.ask(table) for sub in self.subs]
        return [
            [
                Fact(name=each.name, label=each.labels[p[row].argmax()], confidence=round(float(p[row].max()), 4))
                for each, p in zip(SUBTASKS, said, strict=True)
            ]
            for row in range(len(pictures))
        ]

    def told(self, questions: Sequence[Question], images: dict[int, bytes], facts: dict[int, list[Fact]]) -> Table:
        """Rows as the large model gets them."""
        return _rows(
            self.task, self.world, questions, [images] * len(questions), [facts.get(q.picture, []) for q in questions]
        )


def make_facts_world(seed: int = 0) -> FactsWorld:
    """Trains all four models: about a minute on one thread."""
    torch.set_num_threads(1)
    world = make_world(seed)
    task = msgspec.structs.replace(world.task, subtasks=SUBTASKS)
    known = attributes(world.vqa)
    subs = tuple(_sub(world, known[:, place], each) for place, each in enumerate(SUBTASKS))
    small = _fitted(
        SMALL,
        world.task,
        world.table(world.questions(world.deal.labelled)),
        world.table(world.questions(world.deal.tuning)),
    )
    draft = FactsWorld(world=world, task=task, small=small, subs=(subs[0], subs[1]), large=small)
    return replace(draft, large=_large(draft))


def _sub(world: World, known: NDArray[np.int64], subtask: Subtask) -> Asker:
    task = Task(
        name=f"easy-vqa-{subtask.name}",
        inputs=[InputPart(name="image", modality="image", max_bytes=1_000_000, max_pixels=1_000_000)],
        answer=AnswerSpace(labels=subtask.labels),
    )
    tables = []
    for numbers in (world.deal.labelled, world.deal.tuning):
        told = [n for n in numbers if known[n] >= 0]
        tables.append(_pictures([world.captures[n] for n in told], [int(known[n]) for n in told]))
    return _fitted(SUB, task, *tables)


def _large(draft: FactsWorld) -> Asker:
    """Trained on its owner's clean pictures; half of the rows come with what the device would say of them."""
    world, rng = draft.world, np.random.default_rng(5)
    questions = world.questions(world.deal.large)
    seen = {n: capture(world.vqa.pictures[n], DEVICE, rng) for n in world.deal.large}
    facts = dict(zip(seen, draft.facts(list(seen.values())), strict=True))
    clean = world.table(questions, clean=True)
    told = [facts[q.picture] if rng.random() < 0.5 else [] for q in questions]
    images = [{q.picture: bytes(clean.parts(row)["image"])} for row, q in enumerate(questions)]  # type: ignore[arg-type]  # a picture is bytes
    table = _rows(draft.task, world, questions, images, told)
    module = new_module(LARGE, draft.task, seed=world.seed)
    train(
        module,
        table.tensors(LARGE.inputs(draft.task)),
        LARGE.plan,
        seed=world.seed,
        auxiliary=world.auxiliary(questions),
    )
    return _calibrated(module, LARGE, draft.task, draft.told(*_tuning(draft)))


def _tuning(draft: FactsWorld) -> tuple[list[Question], dict[int, bytes], dict[int, list[Fact]]]:
    world = draft.world
    numbers = list(world.deal.tuning)
    facts = dict(zip(numbers, draft.facts([world.captures[n] for n in numbers]), strict=True))
    return world.questions(world.deal.tuning), world.captures, facts


def _fitted(architecture: Architecture, task: Task, table: Table, tuning: Table) -> Asker:
    module = new_module(architecture, task, seed=0)
    train(module, table.tensors(architecture.inputs(task)), architecture.plan, seed=0)
    return _calibrated(module, architecture, task, tuning)


def _calibrated(module: nn.Module, architecture: Architecture, task: Task, tuning: Table) -> Asker:
    logits = predict(module, tuning.tensors(architecture.inputs(task)))
    return Asker(
        module=module, architecture=architecture, task=task, temperature=fit_temperature(logits, tuning.labels)
    )


def _pictures(pictures: Sequence[bytes], labels: Sequence[int]) -> Table:
    return Table.from_examples(
        Example({"image": picture}, label, f"p{row}")
        for row, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    )


def _rows(
    task: Task,
    world: World,
    questions: Sequence[Question],
    images: Sequence[dict[int, bytes]],
    facts: Sequence[Sequence[Fact]],
) -> Table:
    place = {label: number for number, label in enumerate(task.labels)}
    return Table.from_examples(
        Example(
            {"image": image[q.picture], "question": q.text, "facts": msgspec.json.encode(known)},
            place[q.answer],
            world.vqa.groups[q.picture],
        )
        for q, image, known in zip(questions, images, facts, strict=True)
    )
