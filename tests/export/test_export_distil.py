"""Two-stage distillation: three steps a batch, the student untouched, what was known is kept."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from outrider_export.data import Table, Tensors
from outrider_export.distil import DistilPlan, Taught, _Round, distil
from outrider_export.students import Architecture, new_module
from outrider_export.training import predict, train
from outrider_wire.calibration import softmax
from outrider_wire.errors import RuleRefusalError
from outrider_wire.task import Task

Squares = Callable[[int, int], Table]
PLAN = DistilPlan(epochs=4, translate=1)


@pytest.fixture(scope="module")
def weak(architecture: Architecture, task: Task, squares: Squares) -> torch.nn.Module:
    """A student that has seen ten pictures."""
    module = new_module(architecture, task, seed=1)
    plan = replace(architecture.plan, epochs=10)
    train(module, squares(10, 20).tensors(architecture.inputs(task)), plan, seed=1)
    return module


@pytest.fixture(scope="module")
def stream(architecture: Architecture, task: Task, squares: Squares) -> Tensors:
    return squares(320, 21).tensors(architecture.inputs(task))


@pytest.fixture(scope="module")
def held_out(architecture: Architecture, task: Task, squares: Squares) -> Tensors:
    return squares(200, 22).tensors(architecture.inputs(task))


def taught(stream: Tensors, by: torch.nn.Module) -> Taught:
    return Taught(tensors=stream, probabilities=softmax(predict(by, stream)))


def accuracy(module: torch.nn.Module, tensors: Tensors) -> float:
    return float((predict(module, tensors).argmax(1) == tensors.labels).mean())


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_a_student_learns_from_the_large_model_s_answers(
    weak: torch.nn.Module, trained: torch.nn.Module, stream: Tensors, held_out: Tensors, targets: str
) -> None:
    before = accuracy(weak, held_out)
    plan = replace(PLAN, targets=targets)
    student = distil(weak, unsure=taught(stream, trained), sure=None, labelled=None, plan=plan, seed=0)

    assert accuracy(student, held_out) >= before + 0.05
    assert accuracy(weak, held_out) == before
    assert not student.training


def test_the_same_seed_gives_the_same_student(weak: torch.nn.Module, trained: torch.nn.Module, stream: Tensors) -> None:
    lesson = taught(stream, trained)
    first, again, other = (
        distil(weak, unsure=lesson, sure=lesson, labelled=stream, plan=replace(PLAN, epochs=1), seed=seed)
        for seed in (0, 0, 1)
    )

    assert np.array_equal(predict(first, stream), predict(again, stream))
    assert not np.array_equal(predict(first, stream), predict(other, stream))


def test_rehearsing_its_own_distribution_keeps_what_one_sided_lessons_would_overwrite(
    trained: torch.nn.Module, stream: Tensors, held_out: Tensors
) -> None:
    """All that was escalated is called red, whatever it is; stage 2 rehearses what the student says of blue and green."""
    red = np.flatnonzero(stream.labels == 0)
    lesson = Taught(tensors=stream.take(red), probabilities=np.tile([0.98, 0.01, 0.01], (len(red), 1)))
    own = taught(stream.take(np.flatnonzero(stream.labels != 0)), trained)
    plan = DistilPlan(epochs=60, learning_rate=1e-2, translate=1)
    alone = distil(trained, unsure=lesson, sure=own, labelled=None, plan=replace(plan, rehearse_own=False), seed=0)
    rehearsed = distil(trained, unsure=lesson, sure=own, labelled=None, plan=plan, seed=0)

    assert accuracy(rehearsed, held_out) >= accuracy(trained, held_out) - 0.01
    assert accuracy(alone, held_out) < accuracy(rehearsed, held_out) - 0.1


def test_each_batch_is_three_steps(weak: torch.nn.Module, trained: torch.nn.Module, stream: Tensors) -> None:
    lesson = taught(stream, trained)
    steps = {}
    for name, plan in {
        "all": PLAN,
        "no own": replace(PLAN, rehearse_own=False),
        "no labels": replace(PLAN, rehearse_labels=False),
    }.items():
        round_ = _Round(copy.deepcopy(weak), replace(plan, epochs=1), 1.0, 0)
        round_.run(lesson, lesson, stream, None)
        steps[name] = round_.schedule.last_epoch

    assert steps == {"all": 15, "no own": 10, "no labels": 10}


def test_a_round_with_less_than_a_batch_of_confident_answers_is_refused(
    weak: torch.nn.Module, trained: torch.nn.Module, stream: Tensors
) -> None:
    few = taught(stream.take(np.arange(42)), trained)
    with pytest.raises(RuleRefusalError, match="42 inputs") as refused:
        distil(weak, unsure=few, sure=None, labelled=None, plan=PLAN, seed=0)
    assert refused.value.reason == "too_few_confident_rows"
