"""Training: reproducible, draws each image once an epoch, leaves the caller's random state alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from outrider_export.data import Table, Tensors
from outrider_export.networks import ImageTextNet, Shape
from outrider_export.students import Architecture, new_module
from outrider_export.training import _batches, predict, train
from outrider_wire.task import Task

SHAPE = Shape(image=8, channels=(4,), strides=(2,), width=6, words=5)


def asked(images: int, each: int, seed: int = 0) -> Tensors:
    """Random images with ``each`` random questions; the answer is whether the first word and the first pixel agree."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2, (images * each, 5)).astype(np.float32)
    pictures = rng.random((images, 3, 8, 8)).astype(np.float32)
    rows = np.repeat(np.arange(images), each)
    labels = (words[:, 0] == (pictures[rows, 0, 0, 0] > 0.5)).astype(np.int64)
    return Tensors(
        values={"image": pictures, "question": words},
        index={"image": rows, "question": np.arange(len(rows))},
        labels=labels,
        groups=[str(row) for row in rows],
    )


def weights(module: torch.nn.Module) -> np.ndarray:
    return torch.cat([each.detach().flatten().float() for each in module.state_dict().values()]).numpy()


def test_a_student_learns_and_the_same_seed_gives_the_same_weights(
    architecture: Architecture, task: Task, squares: Callable[[int, int], Table], trained: torch.nn.Module
) -> None:
    rows = squares(200, 1).tensors(architecture.inputs(task))
    again = new_module(architecture, task, seed=0)
    train(again, rows, architecture.plan, seed=0)
    held_out = squares(100, 9).tensors(architecture.inputs(task))

    assert np.array_equal(weights(again), weights(trained))
    assert (predict(trained, held_out).argmax(1) == held_out.labels).mean() >= 0.95


def test_training_leaves_the_caller_s_random_state_alone(architecture: Architecture, task: Task) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    new_module(architecture, task, seed=1)

    assert torch.equal(torch.rand(1), expected)


def test_unlabelled_rows_are_not_trained_on(
    architecture: Architecture, task: Task, squares: Callable[[int, int], Table]
) -> None:
    plan = replace(architecture.plan, epochs=1)
    table = squares(40, 1)
    labelled, mixed = new_module(architecture, task, seed=0), new_module(architecture, task, seed=0)
    train(labelled, table.take(np.arange(20)).tensors(architecture.inputs(task)), plan, seed=0)
    some = Table(
        values=table.values,
        index=table.index,
        labels=np.where(np.arange(40) < 20, table.labels, -1),
        groups=table.groups,
    )
    train(mixed, some.tensors(architecture.inputs(task)), plan, seed=0)

    assert np.array_equal(weights(labelled), weights(mixed))


def test_an_epoch_has_every_image_once_with_a_few_of_its_own_questions() -> None:
    subject = np.repeat([3, 5, 8, 9, 11], [4, 1, 6, 2, 3])
    batches = list(_batches(subject, 2, 3, np.random.default_rng(0)))

    assert sorted(np.concatenate([batch.subjects for batch in batches])) == [3, 5, 8, 9, 11]
    assert [len(batch.subjects) for batch in batches] == [2, 2, 1]
    for batch in batches:
        assert np.array_equal(batch.subjects[batch.place.numpy()], subject[batch.rows])
        assert len(set(batch.rows.tolist())) == len(batch.rows)
    assert sum(len(batch.rows) for batch in batches) == 3 + 1 + 3 + 2 + 3


def test_without_a_limit_an_epoch_has_every_row() -> None:
    batches = _batches(np.repeat(np.arange(7), 3), 4, None, np.random.default_rng(0))

    assert sorted(row for batch in batches for row in batch.rows) == list(range(21))


def test_predicting_by_shared_encodings_is_predicting_row_by_row() -> None:
    torch.manual_seed(0)
    module = ImageTextNet(SHAPE, 2).eval()
    tensors = asked(5, 4)
    with torch.inference_mode():
        alone = module(*(torch.from_numpy(array) for array in tensors.batch(slice(None)).values())).numpy()

    assert np.allclose(predict(module, tensors), alone, atol=1e-6)


def test_predicting_gives_a_module_back_in_the_mode_it_was_in() -> None:
    module = ImageTextNet(SHAPE, 2).train()
    predict(module, asked(2, 2))

    assert module.training


def test_auxiliary_targets_change_what_is_learnt_and_leave_no_heads_behind(architecture: Architecture) -> None:
    tensors = asked(20, 3)
    target = np.where(np.arange(60) % 3 == 0, tensors.index["image"] % 4, -1)
    plan = replace(architecture.plan, epochs=1)
    torch.manual_seed(0)
    plain, helped = ImageTextNet(SHAPE, 2), ImageTextNet(SHAPE, 2)
    helped.load_state_dict(plain.state_dict())
    train(plain, tensors, plan, seed=0)
    train(helped, tensors, plan, seed=0, auxiliary=[target])

    assert helped.state_dict().keys() == plain.state_dict().keys()
    assert not np.array_equal(weights(helped), weights(plain))


def test_auxiliary_targets_need_a_module_that_encodes(architecture: Architecture) -> None:
    class Plain(torch.nn.Module):
        def forward(self, image: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
            return image.mean((2, 3))[:, :2] + question[:, :2]

    with pytest.raises(TypeError, match="encode"):
        train(Plain(), asked(4, 2), architecture.plan, seed=0, auxiliary=[np.zeros(8, np.int64)])


def test_a_plain_module_without_encode_and_fuse_trains_as_well(architecture: Architecture) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3 * 64 + 5, 2)

        def forward(self, image: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(torch.cat([image.flatten(1), question], 1))
            return logits

    module, tensors, told = Plain(), asked(8, 2), []
    before = weights(module)
    train(module, tensors, architecture.plan, seed=0, progress=lambda _, share: told.append(share))

    assert not np.array_equal(weights(module), before)
    assert predict(module, tensors).shape == (16, 2)
    assert told[-1] == 1.0
    assert not module.training


def test_a_large_data_set_ends_by_its_number_of_steps(architecture: Architecture) -> None:
    told: list[float] = []
    plan = replace(architecture.plan, epochs=100, subjects=2, max_steps=12)
    module = ImageTextNet(SHAPE, 2)
    train(module, asked(8, 2), plan, seed=0, progress=lambda _, share: told.append(share))

    assert len(told) == 3
