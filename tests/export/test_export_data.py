"""Tables: columns of distinct values, prepared once, by the same steps as on the device."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from outrider_export.data import Example, Table
from outrider_export.students import Architecture, image_input, text_input
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.steps import Preparer
from outrider_wire.task import InputPart, Task

IMAGE = InputPart(name="image", modality="image")
QUESTION = InputPart(name="question", modality="text")
INPUTS = [image_input(IMAGE, 8, 8), text_input(QUESTION, 16, bigrams=False)]


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 12), (value, 0, 255 - value)).save(file, "PNG")
    return file.getvalue()


def questions(images: int, each: int) -> Table:
    return Table.from_examples(
        Example({"image": png(image), "question": f"question {number}"}, number % 2, f"image-{image}")
        for image in range(images)
        for number in range(each)
    )


def test_many_questions_about_few_images_keep_and_prepare_each_image_once() -> None:
    table = questions(images=5, each=40)
    tensors = table.tensors(INPUTS)

    assert len(table) == len(tensors) == 200
    assert len(table.values["image"]) == 5
    assert tensors.values["image"].shape == (5, 3, 8, 8)
    assert tensors.index["image"].tolist() == [row // 40 for row in range(200)]


def test_a_row_is_prepared_as_the_device_prepares_it() -> None:
    table = questions(images=3, each=4)
    tensors = table.tensors(INPUTS, [IMAGE, QUESTION])
    on_device = Preparer(INPUTS, bounds=[IMAGE, QUESTION])

    for row in range(len(table)):
        there = on_device.prepare(table.parts(row))
        here = {name: array[0] for name, array in tensors.batch(slice(row, row + 1)).items()}
        assert all(np.array_equal(here[name], there[name]) for name in there)


def test_a_subset_prepares_only_what_its_rows_use() -> None:
    tensors = questions(images=5, each=2).take([8, 9]).tensors(INPUTS)

    assert tensors.values["image"].shape[0] == 1
    assert tensors.groups == ["image-4", "image-4"]


def test_taking_rows_of_tensors_shares_their_values() -> None:
    tensors = questions(images=3, each=2).tensors(INPUTS)
    taken = tensors.take(np.array([5, 0]))

    assert taken.values["image"] is tensors.values["image"]
    assert taken.groups == ["image-2", "image-0"]


def test_one_row_a_group_is_what_the_key_chooses() -> None:
    table = questions(images=20, each=7)
    chosen = table.one_per_group("a key")

    assert sorted(chosen.groups) == sorted(set(table.groups))
    assert chosen.parts(3) == table.one_per_group("a key").parts(3)
    assert any(chosen.parts(row) != other.parts(row) for other in [table.one_per_group("another")] for row in range(20))


def test_a_damaged_image_is_named_by_its_group() -> None:
    table = Table.from_examples([Example({"image": png(1)}, 0, "fine"), Example({"image": b"junk"}, 0, "cats/7.png")])

    with pytest.raises(CallerInputError, match=r"cats/7\.png"):
        table.tensors(INPUTS[:1])


def test_an_image_beyond_the_task_s_bounds_is_refused_as_on_the_device() -> None:
    table = Table.from_examples([Example({"image": png(1)}, 0, "large")])

    with pytest.raises(CallerInputError) as refused:
        table.tensors(INPUTS[:1], [InputPart(name="image", modality="image", max_pixels=100)])
    assert refused.value.part == "image"


def test_a_part_that_the_rows_lack_is_said() -> None:
    table = Table.from_examples([Example({"image": png(1)}, 0, "a")])

    with pytest.raises(CallerInputError) as missing:
        table.tensors(INPUTS)
    assert missing.value.reason == "missing_part"


def test_rows_with_other_parts_than_the_first_are_refused() -> None:
    with pytest.raises(OperatorConfigError) as uneven:
        Table.from_examples([Example({"image": b"1"}, 0, "a"), Example({"question": "2"}, 0, "b")])
    assert uneven.value.reason == "uneven_rows"


def test_no_rows_is_an_error_at_once() -> None:
    with pytest.raises(OperatorConfigError):
        Table.from_examples([])


def test_progress_ends_at_one(squares: Callable[[int, int], Table], architecture: Architecture, task: Task) -> None:
    told: list[float] = []
    squares(5, 0).tensors(architecture.inputs(task), progress=lambda _, share: told.append(share))

    assert told[-1] == 1.0
