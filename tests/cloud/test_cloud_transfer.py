"""Answers to sub-tasks on a real task: easy-vqa's colour and shape are told to a large model that reads them as a tensor.

The fast tests are of the plumbing; the slow ones train the pair and say what telling is worth.
"""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from factory import file_entry, make_bundle, make_task, parts_of, png, write_bundle
from outrider_cloud.config import TaskSettings
from outrider_cloud.large.base import LargeReply, LargeRequest
from outrider_cloud.large.table import load_large
from outrider_engine.bundle import open_bundle
from outrider_export.data import Example, Table
from outrider_export.task_text import task_to_toml
from outrider_wire.codec import encode
from outrider_wire.errors import BundleMismatchError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.messages import Escalation, Fact, Part
from outrider_wire.task import Subtask, Task, parse_task

SUBTASKS = [Subtask(name="colour", labels=["red", "green", "blue"]), Subtask(name="shape", labels=["circle", "square"])]


def told_bundle(folder: Path, task: Task) -> Path:
    """A bundle whose logits are five times the facts about the colour, whatever the picture is."""
    from onnx import TensorProto, helper, numpy_helper

    plain = open_bundle(make_bundle(folder / "plain", task, certified=False))
    info = helper.make_tensor_value_info
    weights = np.zeros((5, 3), np.float32)
    weights[:3] = 5 * np.eye(3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["facts", "weights"], ["logits"]), helper.make_node("Shape", ["pixels"], ["seen"])],
        "told",
        [
            info("pixels", TensorProto.FLOAT, ["batch", 3, 32, 32]),
            info("words", TensorProto.FLOAT, ["batch", 96]),
            info("facts", TensorProto.FLOAT, ["batch", 5]),
        ],
        [info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data = model.SerializeToString(deterministic=True)
    facts = ModelInput(
        part="facts",
        tensor="facts",
        steps=[Step(op="one_hot_facts", args={"subtasks": msgspec.to_builtins(SUBTASKS)})],
        shape=[5],
    )
    manifest = msgspec.structs.replace(
        plain.manifest,
        inputs=[*plain.manifest.inputs, facts],
        outputs=msgspec.structs.replace(plain.manifest.outputs, support=None),
        files=[file_entry("model.onnx", data, "model")],
        golden=None,
    )
    write_bundle(folder / "told", manifest, {"model.onnx": data})
    return folder / "told"


def request(task: Task, *facts: Fact) -> LargeRequest:
    parts = {name: value.encode() if isinstance(value, str) else value for name, value in parts_of(png("red")).items()}
    return LargeRequest(parts=parts, labels=task.labels, small=[1 / 3] * 3, facts=facts)


async def test_an_expert_reads_the_facts_as_a_tensor_and_zeros_where_none_are_told(tmp_path: Path) -> None:
    task = make_task(subtasks=SUBTASKS)
    large = load_large(TaskSettings(file="", large=f"onnx:{told_bundle(tmp_path, task)}"), task)
    green = Fact(name="colour", label="green", confidence=0.8)
    told, untold = await large.answer([request(task, green), request(task)])
    await large.close()
    assert isinstance(told, LargeReply) and isinstance(untold, LargeReply)
    assert told.probabilities[1] == pytest.approx(np.exp(4) / (np.exp(4) + 2), abs=1e-4)
    assert untold.probabilities == pytest.approx([1 / 3] * 3)


def test_an_expert_that_reads_facts_is_none_for_a_task_without_sub_tasks(tmp_path: Path) -> None:
    bundle = told_bundle(tmp_path, make_task(subtasks=SUBTASKS))
    with pytest.raises(BundleMismatchError, match="facts"):
        load_large(TaskSettings(file="", large=f"onnx:{bundle}"), make_task())


def test_rows_without_facts_tell_a_model_nothing(tmp_path: Path) -> None:
    inputs = open_bundle(told_bundle(tmp_path, make_task(subtasks=SUBTASKS))).manifest.inputs
    rows = Table.from_examples([Example(parts_of(png(colour)), 0, colour) for colour in ("red", "blue")])
    tensors = rows.tensors(inputs)
    assert tensors.batch(slice(0, 2))["facts"].tolist() == [[0.0] * 5] * 2
    assert tensors.batch(slice(0, 2))["pixels"].shape == (2, 3, 32, 32)


def test_a_task_with_sub_tasks_survives_being_written() -> None:
    task = make_task(subtasks=SUBTASKS)
    assert parse_task(task_to_toml(task)) == task
    assert "subtasks" not in task_to_toml(make_task())


# --- the real pair


@pytest.fixture(scope="module")
def real() -> Any:
    """The dear part, once."""
    from facts_world import make_facts_world

    return make_facts_world()


def shrunk(picture: bytes, side: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).resize((side, side), Image.Resampling.BOX).save(out, "PNG")
    return out.getvalue()


def sent(picture: bytes, question: str, facts: list[Fact]) -> Escalation:
    def part(name: str, modality: Any, data: bytes) -> Part:
        return Part(name=name, modality=modality, media_type="", size=len(data), sha256="a1" * 32, inline=data)

    return Escalation(
        id="0" * 36,
        task="easy-vqa",
        parts=[part("image", "image", picture), part("question", "text", question.encode())],
        why="low_confidence",
        model="a1" * 32,
        label="yes",
        probabilities=[1 / 13] * 13,
        answer_within_ms=5000,
        keep_for_s=3600,
        **({"facts": facts} if facts else {}),  # type: ignore[arg-type]  # facts only where there are some
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_facts_help_where_little_of_the_picture_is_sent_and_cost_a_hundred_bytes(real: Any) -> None:
    world = real.world
    numbers = list(world.deal.test)
    questions = world.questions(world.deal.test)
    truth = np.array([real.task.labels.index(question.answer) for question in questions])
    facts = dict(zip(numbers, real.facts([world.captures[n] for n in numbers]), strict=True))
    refused = real.small.ask(world.table(questions)).max(axis=1) < 0.95
    right: dict[tuple[int, bool], float] = {}
    for side in (64, 8, 4):
        images = {n: world.captures[n] if side == 64 else shrunk(world.captures[n], side) for n in numbers}
        for telling in (False, True):
            told = facts if telling else {}
            said = real.large.ask(real.told(questions, images, told)).argmax(axis=1)
            right[side, telling] = float((said == truth)[refused].mean())
    first = questions[0]
    picture, known = world.captures[first.picture], facts[first.picture]
    more = len(encode(sent(picture, first.text, known))) - len(encode(sent(picture, first.text, [])))

    assert right[64, False] >= 0.88, "the large model does well without"
    assert abs(right[64, True] - right[64, False]) <= 0.01, "and is told nothing new about a whole picture"
    assert right[4, True] >= right[4, False] + 0.01
    assert right[8, True] >= right[8, False]
    assert 60 <= more <= 130


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_exported_pair_answers_as_it_was_trained(real: Any, tmp_path: Path) -> None:
    from facts_world import LARGE

    from outrider_export.build import build_bundle

    world = real.world
    tuning, test = (list(numbers)[:60] for numbers in (world.deal.tuning, world.deal.test))
    facts = dict(zip(tuning + test, real.facts([world.captures[n] for n in tuning + test]), strict=True))
    build_bundle(
        task=real.task,
        model=real.large.module,
        architecture=LARGE,
        tuning=real.told(world.questions(tuple(tuning)), world.captures, facts),
        certification=None,
        out=tmp_path / "large",
        version="1",
        precisions=("fp32",),
    )
    large = load_large(TaskSettings(file="", large=f"onnx:{tmp_path / 'large'}", strategy="transfer"), real.task)
    asked = world.questions(tuple(test))[:200]
    replies = await large.answer(
        [
            LargeRequest(
                parts={"image": world.captures[q.picture], "question": q.text.encode()},
                labels=real.task.labels,
                small=[1 / 13] * 13,
                facts=facts[q.picture],
            )
            for q in asked
        ]
    )
    await large.close()
    said = [int(np.argmax(reply.probabilities)) for reply in replies if isinstance(reply, LargeReply)]
    wanted = real.large.ask(real.told(asked, world.captures, facts)).argmax(axis=1)
    assert (np.array(said) == wanted).mean() >= 0.99
