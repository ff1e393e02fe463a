"""A task small enough to train in a second: which of three colours is the square in this picture?"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from outrider_export.augment import Jitter
from outrider_export.build import BuildReport, build_bundle
from outrider_export.data import Example, Table
from outrider_export.networks import Shape
from outrider_export.students import Architecture, new_module, student
from outrider_export.training import TrainingPlan, train
from outrider_wire.task import AnswerSpace, InputPart, Policy, Task

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Other tests share the machine, and the same thread count gives the same weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def square(colour: str, rng: np.random.Generator) -> bytes:
    """A PNG of a noisy square somewhere on grey."""
    picture = np.full((16, 16, 3), 128.0)
    top, left = rng.integers(0, 9, 2)
    picture[top : top + 8, left : left + 8] = COLOURS[colour]
    picture += rng.normal(0, 25, picture.shape)
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def make_squares(n: int, seed: int) -> Table:
    """``n`` pictures, each a group of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return Table.from_examples(
        Example({"image": square(list(COLOURS)[label], rng)}, int(label), f"{seed}-{row}")
        for row, label in enumerate(labels)
    )


@pytest.fixture(scope="session")
def squares() -> Callable[[int, int], Table]:
    """`make_squares`."""
    return make_squares


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        name="squares",
        inputs=[InputPart(name="image", modality="image", max_bytes=10_000, max_pixels=10_000)],
        answer=AnswerSpace(labels=list(COLOURS)),
        policy=Policy(target_risk=0.1, confidence=0.9),
    )


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    shape = Shape(image=16, channels=(8, 12), strides=(2, 2), width=16, head=16)
    plan = TrainingPlan(
        epochs=12, subjects=32, learning_rate=1e-2, weight_decay=1e-3, jitter=Jitter(translate=1, noise=0.02)
    )
    return student("tiny", shape, plan)


@pytest.fixture(scope="session")
def training_rows(squares: Callable[[int, int], Table]) -> Table:
    return squares(200, 1)


@pytest.fixture(scope="session")
def trained(architecture: Architecture, task: Task, training_rows: Table) -> torch.nn.Module:
    """Do not change it: every test has the same."""
    module = new_module(architecture, task, seed=0)
    train(module, training_rows.tensors(architecture.inputs(task), task.inputs), architecture.plan, seed=0)
    return module


@pytest.fixture(scope="session")
def built(  # noqa: PLR0917 -- pytest passes fixtures by name
    trained: torch.nn.Module,
    architecture: Architecture,
    task: Task,
    training_rows: Table,
    squares: Callable[[int, int], Table],
    tmp_path_factory: pytest.TempPathFactory,
) -> BuildReport:
    """A certified bundle of the trained module."""
    out: Path = tmp_path_factory.mktemp("bundles") / "squares"
    return build_bundle(
        task=task,
        model=trained,
        architecture=architecture,
        tuning=squares(150, 2),
        certification=squares(250, 3),
        support=training_rows,
        out=out,
        version="1",
        licence="MIT",
    )
