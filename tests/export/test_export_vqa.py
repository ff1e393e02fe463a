"""The whole room on real pictures and questions (`easy-vqa` at 32 × 32): two models trained, shipped, certified, distilled.

A device's camera sees warm, dark, noisy pictures; the small model knows 300 of them, the large one 2,000 clean ones.
"""

import io
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import easy_vqa
import numpy as np
import pytest
import torch
from PIL import Image

from outrider_engine.golden import check_golden
from outrider_engine.model import Model, load_model
from outrider_engine.session import OrtSession
from outrider_export.augment import Capture, Jitter
from outrider_export.build import BuildReport, build_bundle
from outrider_export.data import Example, Table
from outrider_export.distil import DistilPlan, Taught, distil
from outrider_export.networks import Shape
from outrider_export.parity import run_rows
from outrider_export.students import ARCHITECTURES, Architecture, new_module, student
from outrider_export.training import TrainingPlan, predict, train
from outrider_wire.acceptance import Signals, accepted
from outrider_wire.calibration import fit_temperature, softmax
from outrider_wire.task import AnswerSpace, InputPart, Policy, Task

ANSWERS = sorted(easy_vqa.get_answers())
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
WARM = Capture(
    red=(0.95, 1.10),
    green=(0.80, 0.95),
    blue=(0.45, 0.75),
    exposure=(0.45, 0.85),
    blur=(0.25, 0.75),
    noise=(0.03, 0.08),
)
TASK = Task(
    name="easy-vqa",
    inputs=[InputPart(name="image", modality="image"), InputPart(name="question", modality="text")],
    answer=AnswerSpace(labels=ANSWERS),
    policy=Policy(target_risk=0.05, confidence=0.95),
)
LARGE = student(
    "image-text-large-mini",
    Shape(image=32, channels=(16, 32, 48), strides=(2, 2, 1), width=96, words=192, bigrams=True, head=96),
    TrainingPlan(
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
SPLIT = np.random.default_rng(7).permutation(4000)


def pixels(files: list[str]) -> torch.Tensor:
    """(n, 3, 32, 32) in 0..1."""
    pictures = [np.asarray(Image.open(file).convert("RGB").reduce(2)) for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def png(picture: torch.Tensor) -> bytes:
    file = io.BytesIO()
    array = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Pictures:
    """One split of the data set: which pictures, as which camera, with how many questions."""

    def __init__(self, split: str) -> None:
        texts, answers, numbers = getattr(easy_vqa, f"get_{split}_questions")()
        self.files: dict[int, str] = getattr(easy_vqa, f"get_{split}_image_paths")()
        self.asked: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for text, answer, number in zip(texts, answers, numbers, strict=True):
            self.asked[number].append((text, ANSWERS.index(answer)))

    def table(self, numbers: np.ndarray, *, device: bool) -> Table:
        images = pixels([self.files[int(number)] for number in numbers])
        if device:
            images = WARM(images, torch.Generator().manual_seed(99))
        return Table.from_examples(
            Example({"image": data, "question": text}, label, str(number))
            for number, data in zip(numbers.tolist(), map(png, images), strict=True)
            for text, label in self.asked[number]
        )

    def attributes(self, table: Table) -> list[np.ndarray]:
        """Colour and shape of each row's picture, as its own answers give them away; −1 where they do not."""
        known = {group: [self._named(int(group), words) for words in (COLOURS, SHAPES)] for group in set(table.groups)}
        return [np.array([known[group][kind] for group in table.groups]) for kind in (0, 1)]

    def _named(self, number: int, words: tuple[str, ...]) -> int:
        for text, label in self.asked[number]:
            if ANSWERS[label] in words:
                return words.index(ANSWERS[label])
            denied = bool(re.search(r"\b(no|not)\b", text))
            if ANSWERS[label] in ("yes", "no") and (ANSWERS[label] == "yes") != denied:
                for word in re.findall("[a-z]+", text):
                    if word in words:
                        return words.index(word)
        return -1


def fitted(architecture: Architecture, table: Table, auxiliary: list[np.ndarray]) -> torch.nn.Module:
    module = new_module(architecture, TASK, seed=0)
    train(module, table.tensors(architecture.inputs(TASK)), architecture.plan, seed=0, auxiliary=auxiliary)
    return module


@dataclass(frozen=True)
class World:
    large: torch.nn.Module
    small: torch.nn.Module
    labelled: Table
    stream: Table
    tuning: Table
    test: Table
    report: BuildReport
    model: Model

    def right(self, module: torch.nn.Module, architecture: Architecture, table: Table) -> np.ndarray:
        return predict(module, table.tensors(architecture.inputs(TASK))).argmax(1) == table.labels


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The dear part, once."""
    pictures = Pictures("train")
    clean = pictures.table(SPLIT[:2000], device=False)
    large = fitted(LARGE, clean, pictures.attributes(clean))
    labelled = pictures.table(SPLIT[2000:2300], device=True)
    small = fitted(SMALL, labelled, [])
    tuning = pictures.table(SPLIT[3000:3300], device=True)
    stream = pictures.table(SPLIT[2400:2700], device=True)
    report = build_bundle(
        task=TASK,
        model=small,
        architecture=SMALL,
        tuning=tuning,
        certification=pictures.table(SPLIT[3300:], device=True),
        support=labelled,
        out=tmp_path_factory.mktemp("vqa") / "small",
        version="1",
    )
    return World(
        large=large,
        small=small,
        labelled=labelled,
        stream=stream,
        tuning=tuning,
        test=Pictures("test").table(np.arange(500), device=True),
        report=report,
        model=load_model(report.bundle),
    )


def shipped(world: World, table: Table, variant: str = "int8") -> dict[str, np.ndarray]:
    """What the bundle's session says of the rows."""
    data = world.model.bundle.read(f"model.{variant}.onnx")
    return run_rows(OrtSession(data), table.tensors(SMALL.inputs(TASK)))


def kept(world: World, found: dict[str, Any]) -> np.ndarray:
    manifest = world.report.manifest
    probabilities = softmax(found["logits"], manifest.calibration.temperature)
    return accepted(manifest.acceptance, Signals(found["logits"], probabilities, found["support"]))


@pytest.mark.timeout(300)
def test_the_large_model_is_much_better_than_the_small_and_together_they_know_more(world: World) -> None:
    large, small = (world.right(*each, world.test) for each in ((world.large, LARGE), (world.small, SMALL)))

    assert large.mean() >= 0.93
    assert 0.72 <= small.mean() <= 0.84
    assert (large | small).mean() >= large.mean()


def test_what_ships_is_certified_and_keeps_its_promise_on_test_pictures(world: World) -> None:
    certificate = world.report.manifest.certificate
    found = shipped(world, world.test)
    here = kept(world, found)
    wrong = found["logits"].argmax(1) != world.test.labels

    assert certificate is not None
    assert (certificate.method, certificate.groups) == ("fixed-sequence-groups", 700)
    assert 2600 < certificate.n <= 2800
    assert here.mean() >= 0.25
    assert wrong[here].mean() <= 0.07


def test_int8_answers_as_fp32_does(world: World) -> None:
    int8, fp32 = (shipped(world, world.test, variant) for variant in ("int8", "fp32"))
    right = [(found["logits"].argmax(1) == world.test.labels).mean() for found in (int8, fp32)]

    assert (int8["logits"].argmax(1) == fp32["logits"].argmax(1)).mean() >= 0.975
    assert abs(right[0] - right[1]) <= 0.01
    assert np.corrcoef(int8["support"], fp32["support"])[0, 1] >= 0.98
    assert check_golden(world.model) == []
    assert (world.report.bundle / "model.int8.onnx").stat().st_size < 250_000


def test_foreign_pictures_escalate_however_sure_the_model_is(world: World) -> None:
    tensors = world.test.tensors(SMALL.inputs(TASK))
    rng = np.random.default_rng(0)
    seen = tensors.values["image"]
    foreign = {
        "grey": np.full_like(seen, 0.5),
        "black": np.zeros_like(seen),
        "white": np.ones_like(seen),
        "inverted": 1 - seen,
        "noise": rng.random(seen.shape, np.float32),
        "swapped colours": seen[:, ::-1],
        "dark": seen * 0.25,
    }
    session = OrtSession(world.model.bundle.read("model.int8.onnx"))
    stays = {
        name: kept(world, run_rows(session, replace(tensors, values={**tensors.values, "image": images}))).mean()
        for name, images in foreign.items()
    }

    assert {name: share for name, share in stays.items() if share > 0.01} == {}


def test_one_round_of_distillation_makes_a_better_student_that_forgets_nothing(world: World) -> None:
    inputs = [SMALL.inputs(TASK), LARGE.inputs(TASK)]
    ours, theirs = (world.stream.tensors(each) for each in inputs)
    hot = fit_temperature(predict(world.large, world.tuning.tensors(inputs[1])), world.tuning.labels)
    own = softmax(predict(world.small, ours), world.report.manifest.calibration.temperature)
    large = softmax(predict(world.large, theirs), hot)
    here = kept(world, shipped(world, world.stream))
    teach = np.flatnonzero(~here & (large.max(1) > 0.95))
    stay = np.flatnonzero(here)
    improved = distil(
        world.small,
        unsure=Taught(tensors=ours.take(teach), probabilities=large[teach]),
        sure=Taught(tensors=ours.take(stay), probabilities=own[stay]),
        labelled=world.labelled.tensors(inputs[0]),
        plan=DistilPlan(epochs=5),
        seed=0,
        temperature=world.report.manifest.calibration.temperature,
    )
    test = shipped(world, world.test)
    knew = kept(world, test) & (test["logits"].argmax(1) == world.test.labels)
    after = world.right(improved, SMALL, world.test)

    assert after.mean() >= world.right(world.small, SMALL, world.test).mean() + 0.01
    assert after[knew].mean() >= 0.99
