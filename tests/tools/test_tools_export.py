"""``outrider export run``: one's own torch module becomes a certified bundle, and what cannot become one is said."""

import random

import pytest

import factory
from outrider.task_template import task_text
from outrider_wire.errors import OutriderError

MODULE = """\
import torch
from torch import nn

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class NearestColour(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.register_buffer("colours", torch.tensor([COLOURS[label] for label in task.labels]))

    def forward(self, image):
        return -12 * ((image.mean((2, 3))[:, None] - self.colours) ** 2).sum(2)
"""


@pytest.fixture
def site(tmp_path):
    """A module of one's own, a task, and 80 photos a class."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "task.toml").write_text(task_text(name="colours", labels=factory.LABELS))
    draw = random.Random(0)
    for label in factory.LABELS:
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(80):
            colour = tuple(min(255, max(0, side + draw.randint(-60, 60))) for side in factory.COLOURS[label])
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(factory.png(colour, size=16))
    return tmp_path


FLAGS = ("--task", "task.toml", "--data", "photos", "-o", "out")


def test_an_own_module_becomes_a_certified_bundle(outrider, site):
    ran = outrider("export", "run", "--from", "mine:NearestColour", *FLAGS, "--json", PYTHONPATH=str(site))
    assert ran.code == 0, ran.err
    assert [variant["name"] for variant in ran.json["variants"]] == ["int8", "fp32"]
    assert ran.json["certificate"]["risk"] == 0.05
    assert outrider("bundle", "verify", "out", "--run", "--json").json["certified"]
    asked = outrider("edge", "infer", "--task", "task.toml", "--bundle", "out", "photos/red/1.png")
    assert asked.lines[0]["label"] == "red"


@pytest.mark.parametrize(
    ("source", "reads", "fix"),
    [
        ("nothing", "", "name a .safetensors checkpoint"),
        ("no_such_module:Nothing", "", "PYTHONPATH"),
        ("model.onnx", "", "add --reads"),
        ("model.onnx", "image-small", "name an ONNX file"),
        ("model.safetensors", "", "name a .safetensors file"),
    ],
)
def test_what_is_no_model_is_said_with_the_way_out(source, reads, fix):
    from outrider.exporting import find_model

    with pytest.raises(OutriderError) as raised:
        find_model(source, factory.make_task(), reads)
    assert fix in raised.value.fix


def test_an_unknown_precision_is_refused_before_anything_is_loaded(outrider):
    ran = outrider("export", "run", "--from", "x:y", *FLAGS, "--variant", "int4")
    assert ran.code == 2
    assert "int8,fp32" in ran.err


def test_an_encoder_becomes_a_bundle_with_a_head_of_its_own(outrider, tmp_path):
    import tiny_checkpoints
    from checkpoint_world import topics

    topics(tmp_path / "texts", 600)
    tiny_checkpoints.text_encoder(tmp_path / "encoder")
    task = task_text(name="topics", labels=["politics", "space", "sport"], kind="text")
    (tmp_path / "task.toml").write_text(task.replace("target_risk = 0.05", "target_risk = 0.45"))
    ran = outrider(
        "export",
        "run",
        "--from",
        "encoder#tokens=12",
        "--task",
        "task.toml",
        "--data",
        "texts",
        "-o",
        "out",
        "--variant",
        "fp32",
        "--json",
    )
    assert ran.code == 0, ran.err
    assert outrider("bundle", "verify", "out", "--run", "--json").code == 0


def test_a_pickle_is_refused_with_the_way_out(outrider, site):
    (site / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    ran = outrider("export", "run", "--from", "model.pkl", *FLAGS)
    assert (ran.code, (site / "ran").exists()) == (2, False)
    assert "mine:model" in ran.err
