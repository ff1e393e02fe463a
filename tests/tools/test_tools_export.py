"""``outrider export run``: one's own torch module becomes a certified bundle, and what cannot become one is said."""

import os
import random
from pathlib import Path

import pytest

import factory
from outrider.task_template import task_text
from outrider.wanted import Wanted
from outrider_edge.profile import load_profile
from outrider_engine.items import ITEMS_FILE
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


def beside(site):
    """An import path with the test's own module in front of what this run imports."""
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


FLAGS = ("--task", "task.toml", "--data", "photos", "-o", "out")


def test_an_own_module_becomes_a_certified_bundle(outrider, site):
    ran = outrider("export", "run", "--from", "mine:NearestColour", *FLAGS, "--json", PYTHONPATH=beside(site))
    assert ran.code == 0, ran.err
    assert [variant["name"] for variant in ran.json["variants"]] == ["int8", "fp32"]
    assert ran.json["certificate"]["risk"] == 0.05
    assert (site / "out" / ITEMS_FILE).exists()
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


def test_an_unknown_variant_is_refused_before_anything_is_loaded(outrider, site):
    for wrong in (("--variant", "int4"), ("--force", "int4")):
        ran = outrider("export", "run", "--from", "x:y", *FLAGS, *wrong)
        assert ran.code == 2
        assert "int8-entropy" in ran.err
    ran = outrider("export", "run", "--from", "x:y", *FLAGS, "--profile", "jetson-orin-nan")
    assert ran.code == 2
    assert "did you mean 'jetson-orin-nano'" in ran.err


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("generic-x86-64", ["int8", "fp32"]),
        ("raspberry-pi-5", ["int8-symmetric", "fp32"]),
        ("jetson-orin-nano", ["int8-symmetric", "fp16", "fp32"]),
    ],
)
def test_a_profile_gets_the_variants_that_its_hardware_runs_well(profile, names):
    assert Wanted(profile=load_profile(profile, Path())).names == names
    assert Wanted(profile=load_profile(profile, Path()), variants=["fp32"], forced=["fp16"]).names == ["fp32", "fp16"]
    assert set(Wanted(profile=load_profile(profile, Path()), objective="size").names) >= {*names, "int8-dynamic"}


def test_nothing_asked_for_is_int8_and_fp32():
    assert Wanted().names == ["int8", "fp32"]


def test_the_table_of_variants_is_listed(outrider):
    listed = outrider("export", "variants", "--json").json
    assert {"fp32", "fp16", "int8", "int8-symmetric", "int8-dynamic"} <= {each["name"] for each in listed}
    assert "TensorRT" in outrider("export", "variants").out


def test_an_objective_picks_one_variant_from_a_front_that_is_shown(outrider, site):
    ran = outrider(
        "export",
        "run",
        "--from",
        "mine:NearestColour",
        *FLAGS,
        "--objective",
        "size",
        "--json",
        PYTHONPATH=beside(site),
    )
    assert ran.code == 0, ran.err
    said = ran.json
    assert len(said["candidates"]) >= 5
    assert said["picked"] in said["front"]
    sizes = {each["name"]: each["bytes"] for each in said["candidates"]}
    assert sizes[said["picked"]] == min(sizes.values())
    assert [each["name"] for each in said["variants"]] == [said["picked"]]
    assert (site / "out.front.png").read_bytes().startswith(b"\x89PNG")
    assert said["certificate"]["precision"] == said["variants"][0]["precision"]
    shown = outrider("bundle", "inspect", "out")
    assert said["variants"][0]["about"][:20] in " ".join(shown.out.split())


def test_a_profile_that_needs_fixed_shapes_gets_them_and_items_are_left_out_where_asked(outrider, site):
    (site / "qnn.toml").write_text(
        'name = "qnn"\n[hardware]\narch = "aarch64"\n[runtime]\n'
        'providers = ["QNNExecutionProvider", "CPUExecutionProvider"]\nprecisions = ["fp32"]\n'
    )
    ran = outrider(
        "export",
        "run",
        "--from",
        "mine:NearestColour",
        *FLAGS,
        "--profile",
        "./qnn.toml",
        "--no-items",
        PYTHONPATH=beside(site),
    )
    assert ran.code == 0, ran.err
    assert not (site / "out" / ITEMS_FILE).exists()
    from outrider_engine.walk import walk

    assert walk((site / "out" / "model.fp32.onnx").read_bytes()).inputs[0].shape[0] == 1
    assert outrider("bundle", "verify", "out", "--run", "--json").json["certified"]


def test_a_file_larger_than_any_device_takes_is_not_read(tmp_path):
    from outrider.exporting import find_model
    from outrider_wire.limits import MODEL_BYTES

    large = tmp_path / "large.onnx"
    with large.open("wb") as opened:
        opened.truncate(MODEL_BYTES + 1)
    with pytest.raises(OutriderError) as raised:
        find_model(str(large), factory.make_task(), "image-small")
    assert raised.value.reason == "model_too_large"


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
