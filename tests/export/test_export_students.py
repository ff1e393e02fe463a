"""The students that ship by name, and one's own."""

import sys
from pathlib import Path

import pytest
import torch

from outrider_export.networks import parameters
from outrider_export.students import ARCHITECTURES, find_architecture, new_module
from outrider_wire.errors import OperatorConfigError
from outrider_wire.steps import Preparer
from outrider_wire.task import AnswerSpace, InputPart, Task

IMAGE, TEXT = InputPart(name="photo", modality="image"), InputPart(name="ask", modality="text")
VQA = Task(name="vqa", inputs=[TEXT, IMAGE], answer=AnswerSpace(labels=[str(n) for n in range(13)]))
PHOTOS = Task(name="photos", inputs=[IMAGE], answer=AnswerSpace(labels=["a", "b"]))

CALLS = Task(name="calls", inputs=[InputPart(name="call", modality="audio")], answer=AnswerSpace(labels=["a", "b"]))
NEWS = Task(name="news", inputs=[InputPart(name="story", modality="text")], answer=AnswerSpace(labels=["a", "b"]))

OWN = """
import torch
from outrider_export.students import ARCHITECTURES, Architecture

class Net(torch.nn.Module):
    def __init__(self, task):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 64 * 64, len(task.labels))

    def forward(self, photo):
        return self.layer(photo.flatten(1))

small = Architecture(inputs=ARCHITECTURES["image-small"].inputs, build=ARCHITECTURES["image-small"].build,
                     plan=ARCHITECTURES["image-small"].plan)
number = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_students.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_students", raising=False)
    return "my_students"


@pytest.mark.parametrize(
    ("name", "task", "thousands"),
    [
        ("image-text-small", VQA, 47.3),
        ("image-text-large", VQA, 1048.0),
        ("image-small", PHOTOS, 38.8),
        ("image-large", PHOTOS, 873.4),
        ("audio-small", CALLS, 27.7),
        ("audio-large", CALLS, 127.2),
        ("text-small", NEWS, 49.2),
        ("text-large", NEWS, 1048.8),
    ],
)
def test_a_student_reads_its_task_and_has_its_size(name: str, task: Task, thousands: float) -> None:
    architecture = ARCHITECTURES[name]
    module = new_module(architecture, task, seed=0).eval()
    inputs = architecture.inputs(task)
    logits = module(*(torch.zeros(2, *entry.shape) for entry in inputs))

    assert logits.shape == (2, len(task.labels))
    assert parameters(module) / 1e3 == pytest.approx(thousands, abs=0.5)
    assert Preparer(inputs, bounds=task.inputs).parts == {part.name for part in task.inputs}


def test_the_same_seed_gives_the_same_new_module() -> None:
    first, again, other = (new_module(ARCHITECTURES["image-small"], PHOTOS, seed=seed) for seed in (1, 1, 2))

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_student_of_images_refuses_a_task_with_text() -> None:
    with pytest.raises(OperatorConfigError, match="image, and task vqa has text, image"):
        ARCHITECTURES["image-small"].inputs(VQA)


def test_a_student_of_sounds_refuses_a_task_of_pictures() -> None:
    with pytest.raises(OperatorConfigError, match="one part of audio, and task photos has image"):
        ARCHITECTURES["audio-small"].inputs(PHOTOS)


def test_an_own_architecture_is_found_by_module_and_attribute(own: str) -> None:
    found = find_architecture(f"{own}:small")

    assert found.name == f"{own}:small"
    assert found.inputs(PHOTOS)[0].shape == [3, 32, 32]


def test_an_own_class_reads_the_default_inputs(own: str) -> None:
    found = find_architecture(f"{own}:Net")

    assert [entry.shape for entry in found.inputs(PHOTOS)] == [[3, 64, 64]]
    assert [entry.shape for entry in found.inputs(VQA)] == [[512], [3, 64, 64]]
    assert new_module(found, PHOTOS, seed=0)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["image-tiny", "no_such_module:Net", "my_students:Absent", "my_students:number"])
def test_an_unknown_student_is_refused_with_the_way_out(own: str, name: str) -> None:
    with pytest.raises(OperatorConfigError) as unknown:
        find_architecture(name)
    assert unknown.value.reason == "unknown_student"
    assert unknown.value.fix


def test_default_inputs_know_no_audio(own: str) -> None:
    task = Task(name="calls", inputs=[InputPart(name="clip", modality="audio")], answer=AnswerSpace(labels=["a", "b"]))

    with pytest.raises(OperatorConfigError, match="audio"):
        find_architecture(f"{own}:Net").inputs(task)
