"""The learned deferral score: better where the features give errors away, left out where they do not, the same on the device."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from outrider_engine.model import load_model
from outrider_engine.session import OrtSession
from outrider_export.asking import ask_rows
from outrider_export.build import BuildReport, build_bundle
from outrider_export.data import UNLABELLED, Table, Tensors
from outrider_export.deferral import (
    FEWEST_ROWS,
    MOST_PARAMETERS,
    Deferring,
    Head,
    Pairs,
    fit_head,
    join,
    learn,
    make_pairs,
)
from outrider_export.eight_bits import chosen_in
from outrider_export.networks import ImageNet, ImageTextNet, Reveals, Shape
from outrider_export.parity import run_rows
from outrider_export.quantize import to_int8
from outrider_export.students import Architecture
from outrider_export.to_onnx import export_onnx
from outrider_wire.acceptance import accepted
from outrider_wire.manifest import ModelInput, Outputs, Step
from outrider_wire.scores import area_under_risk_coverage
from outrider_wire.task import Task

WIDTH = 6
INPUTS = [ModelInput(part="x", tensor="x", steps=[Step(op="cast")], shape=[WIDTH])]


class Telling(nn.Module):
    """Answers by the first three numbers; the last layer reads the other three as well, with no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, 3, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.eye(3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.hidden(x))
        return logits

    def hidden(self, x: Tensor) -> Tensor:
        return x * 1.0


def world(n: int, seed: int, *, told: bool) -> Tensors:
    """``n`` rows; the answer is wrong as often as it is unsure, and, if ``told``, wherever the fourth number is large."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, WIDTH)).astype(np.float32)
    x[:, :3] *= 2
    shares = np.exp(x[:, :3]) / np.exp(x[:, :3]).sum(1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in shares])
    if told:
        misled = x[:, 3] > 0.8
        labels[misled] = (x[misled, :3].argmax(1) + rng.integers(1, 3, int(misled.sum()))) % 3
    rows = np.arange(n)
    return Tensors(values={"x": x}, index={"x": rows}, labels=labels, groups=[f"{seed}-{row}" for row in rows])


def area(scores: NDArray[np.float64], tensors: Tensors) -> float:
    return area_under_risk_coverage(scores, tensors.values["x"][:, :3].argmax(1) == tensors.labels)


def by_torch(module: nn.Module, head: Head, tensors: Tensors) -> NDArray[np.float64]:
    with torch.inference_mode():
        score: Tensor = Deferring(module, module, head)(torch.from_numpy(tensors.values["x"]))[-1]
    return score.double().numpy()


@pytest.fixture(scope="module")
def told() -> Pairs:
    return make_pairs(Telling(), world(3000, 1, told=True))


def test_a_head_sees_errors_that_no_plain_score_sees(told: Pairs) -> None:
    module, test = Telling(), world(4000, 3, told=True)
    learned = learn(told, module, world(1000, 2, told=True), seed=0)
    assert learned.head is not None, learned.says
    sure = torch.softmax(torch.from_numpy(test.values["x"][:, :3]), 1).amax(1).numpy()
    assert area(by_torch(module, learned.head, test), test) < 0.7 * area(sure, test)


def test_a_head_is_left_out_where_the_model_already_says_how_sure_it_is() -> None:
    pairs = make_pairs(Telling(), world(3000, 1, told=False))
    learned = learn(pairs, Telling(), world(3000, 2, told=False), seed=0)
    assert learned.head is None
    assert learned.says.startswith("left out: area") and "3000 rows" in learned.says


def test_a_head_that_learnt_from_memorised_rows_ranks_worse_than_one_from_rows_that_were_left_out(told: Pairs) -> None:
    """What is right on rows that were trained on says nothing: there the model is always right, however unsure."""
    rng = np.random.default_rng(0)
    memorised = replace(told, right=np.where(rng.random(len(told)) < 0.05, 0.0, 1.0))
    test = world(4000, 3, told=True)
    found = [area(by_torch(Telling(), fit_head(each, seed=0), test), test) for each in (told, memorised)]
    assert found[0] < 0.8 * found[1]


def test_few_rows_leave_the_head_near_the_plain_confidence() -> None:
    pairs = make_pairs(Telling(), world(FEWEST_ROWS, 1, told=False))
    test = world(4000, 3, told=False)
    sure = torch.softmax(torch.from_numpy(test.values["x"][:, :3]), 1).amax(1).numpy()
    assert area(by_torch(Telling(), fit_head(pairs, seed=0), test), test) < 1.06 * area(sure, test)


@pytest.mark.parametrize(
    ("rows", "says"), [(slice(0, 399), "399 rows"), (slice(0, 3000), "rows right, or wrong")], ids=["few", "one-sided"]
)
def test_too_little_to_learn_from_is_said_and_makes_no_head(told: Pairs, rows: slice, says: str) -> None:
    pairs = replace(told, right=np.ones(3000)).take(np.arange(3000)[rows])
    learned = learn(pairs, Telling(), world(500, 2, told=True), seed=0)
    assert learned.head is None and says in learned.says


def test_many_rows_of_few_groups_are_too_few(told: Pairs) -> None:
    pairs = replace(told, groups=[str(row % 99) for row in range(len(told))])
    assert "99 groups" in pairs.shortage and not told.shortage


def test_a_label_counts_more_than_the_large_model_and_a_row_with_neither_is_left_out() -> None:
    tensors = world(4, 1, told=False)
    answers = tensors.values["x"][:, :3].argmax(1)
    labels = np.array([answers[0], (answers[1] + 1) % 3, UNLABELLED, UNLABELLED])
    rows = Tensors(values=tensors.values, index=tensors.index, labels=labels, groups=["a", "b", "c", "d"])
    large = np.full((4, 3), 0.3)
    large[2, answers[2]], large[3] = 0.4, np.nan
    pairs = make_pairs(Telling(), rows, large)
    assert pairs.groups == ["a", "b", "c"]
    assert pairs.right.tolist() == [1.0, 0.0, 0.4]
    assert make_pairs(Telling(), rows).groups == ["a", "b"]


def test_joined_pairs_are_all_of_them(told: Pairs) -> None:
    halves = [told.take(np.arange(0, 1000)), told.take(np.arange(1000, 3000))]
    whole = join(halves)
    assert np.array_equal(whole.right, told.right) and list(whole.groups) == list(told.groups)
    assert whole.seen.hidden is not None and told.seen.hidden is not None
    assert np.array_equal(whole.seen.hidden, told.seen.hidden)


@pytest.fixture(scope="module")
def head(told: Pairs) -> Head:
    return fit_head(told, seed=0)


def exported(head: Head) -> bytes:
    module = Telling()
    return export_onnx(Deferring(module, module, head).eval(), INPUTS, ["logits", "deferral"])


@pytest.fixture(scope="module")
def graph(head: Head) -> bytes:
    return exported(head)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(
    told: Pairs, head: Head, graph: bytes
) -> None:
    assert exported(fit_head(told, seed=0)) == graph
    assert not torch.equal(fit_head(told, seed=1).first.weight, head.first.weight)


@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["ordinary", "saturated"])
def test_onnx_gives_what_torch_gives(head: Head, graph: bytes, scale: float) -> None:
    rows = world(200, 5, told=True)
    rows.values["x"][:] *= scale
    found = run_rows(OrtSession(graph), rows)["deferral"]
    assert found.shape == (200,) and np.isfinite(found).all()
    assert np.allclose(found, by_torch(Telling(), head, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("labels", "hidden"), [(2, 0), (2, 64), (1000, 400), (13, 5000)])
def test_a_head_stays_small_and_reads_no_features_that_are_too_many(labels: int, hidden: int) -> None:
    head = Head(labels, hidden)
    learnt = sum(each.numel() for each in head.parameters() if each.requires_grad)
    assert learnt <= MOST_PARAMETERS and head.reads_hidden == (0 < hidden < 1900)
    assert head(torch.randn(5, labels), torch.ones(5, hidden)).shape == (5,)


def test_the_shipped_networks_reveal_what_their_last_layer_decides_by() -> None:
    shape = Shape(image=16, channels=(4,), strides=(2,), width=6, head=5)
    pictures, words = torch.rand(3, 3, 16, 16), torch.rand(3, 8)
    alone = ImageNet(shape, 4).eval()
    fused = ImageTextNet(Shape(image=16, channels=(4,), strides=(2,), width=6, head=5, words=8), 4).eval()
    assert isinstance(alone, Reveals) and isinstance(fused, Reveals)
    assert torch.allclose(alone.head[-1](alone.hidden(pictures)), alone(pictures))
    assert torch.allclose(fused.head[-1](fused.hidden(pictures, words)), fused(pictures, words))


@dataclass(frozen=True)
class Stickers:
    """Pictures of squares, a third of them veiled and labelled otherwise: the small model does not know what a veil means."""

    pairs: Pairs
    tuning: Table
    certification: Table
    test: Table


def stickered(table: Table, seed: int) -> Table:
    """A table of squares, a third of them with white lines over the picture and the label moved on by one."""
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(table)) < 0.33
    images = []
    for row in range(len(table)):
        value = table.parts(row)["image"]
        assert isinstance(value, bytes)
        if chosen[row]:
            pixels = np.asarray(Image.open(io.BytesIO(value)).convert("RGB")).astype(np.float64)
            pixels[::2] = 0.4 * pixels[::2] + 0.6 * 250
            out = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
            value = out.getvalue()
        images.append(value)
    labels = np.where(chosen, (table.labels + 1) % 3, table.labels)
    return Table(values={"image": images}, index={"image": np.arange(len(table))}, labels=labels, groups=table.groups)


@pytest.fixture(scope="module")
def stickers(
    trained: nn.Module, architecture: Architecture, task: Task, squares: Callable[[int, int], Table]
) -> Stickers:
    rows = stickered(squares(700, 11), 1).tensors(architecture.inputs(task))
    return Stickers(
        pairs=make_pairs(trained, rows),
        tuning=stickered(squares(300, 12), 2),
        certification=stickered(squares(500, 13), 3),
        test=stickered(squares(500, 14), 4),
    )


@pytest.fixture(scope="module")
def build(
    stickers: Stickers, trained: nn.Module, architecture: Architecture, task: Task
) -> Callable[[Path, Pairs], BuildReport]:
    """A bundle of the trained module, with what those pairs teach."""

    def built(out: Path, pairs: Pairs) -> BuildReport:
        return build_bundle(
            task=task,
            model=trained,
            architecture=architecture,
            tuning=stickers.tuning,
            certification=stickers.certification,
            out=out,
            version="1",
            deferral=pairs,
            embedding=True,
        )

    return built


@pytest.fixture(scope="module")
def deferring(
    build: Callable[[Path, Pairs], BuildReport], stickers: Stickers, tmp_path_factory: pytest.TempPathFactory
) -> BuildReport:
    return build(tmp_path_factory.mktemp("with") / "bundle", stickers.pairs)


def test_a_device_accepts_by_the_learned_score_end_to_end(deferring: BuildReport, stickers: Stickers) -> None:
    model = load_model(deferring.bundle)
    rule, test = model.manifest.acceptance, stickers.test
    assert (rule.score, model.certified) == ("deferral", "")
    assert model.manifest.outputs == Outputs(support="support", embedding="embedding", deferral="deferral")
    said = [model.infer([model.prepare(test.parts(row))])[0] for row in range(len(test))]
    verdicts = [model.judge(each, test.parts(row)) for row, each in enumerate(said)]
    kept = np.array([verdict.accepted for verdict in verdicts])
    right = np.array([each.probabilities.argmax() for each in said]) == test.labels
    assert [verdict.score for verdict in verdicts] == [each.deferral for each in said]
    assert 0.4 < kept.mean() < 0.9 and (~right[kept]).mean() < 0.1 < (~right).mean()
    assert np.array_equal(kept, accepted(rule, ask_rows(model, test).signals))


def test_the_bundle_says_that_the_learned_score_ranks_best_and_why_it_is_there(deferring: BuildReport) -> None:
    scores = dict(deferring.manifest.scores)
    assert scores.pop("deferral") < 0.9 * min(scores.values())
    assert deferring.manifest.provenance["deferral"].endswith("learnt from 700 rows")


def test_a_bundle_says_why_a_learned_score_was_left_out_and_its_graph_does_not_have_it(
    build: Callable[[Path, Pairs], BuildReport], stickers: Stickers, tmp_path: Path
) -> None:
    shuffled = np.random.default_rng(3).permutation(stickers.pairs.right)
    report = build(tmp_path / "bundle", replace(stickers.pairs, right=shuffled))
    assert report.manifest.provenance["deferral"].startswith("left out: area")
    assert report.manifest.outputs.deferral is None and "deferral" not in report.manifest.scores
    found = onnx.load(report.bundle / "model.int8.onnx").graph
    assert [output.name for output in found.output] == ["logits", "support", "embedding"]


def test_int8_leaves_the_head_in_floating_point(
    stickers: Stickers, deferring: BuildReport, architecture: Architecture, task: Task
) -> None:
    assert deferring.manifest.variants[0].parity["deferral_correlation"] > 0.98
    data = (deferring.bundle / "model.fp32.onnx").read_bytes()
    feeds = list(stickers.tuning.tensors(architecture.inputs(task)).batches(50))
    exact = to_int8(data, feeds, exact=["support", "deferral"]).data
    without = to_int8(data, feeds, exact=["support"]).data
    floating = [len(chosen_in(each).floating) for each in (exact, without)]
    assert floating[0] - floating[1] == 2, "the head's two layers, whatever their weights are held in"
    assert int8_matrices(exact) >= 4


def int8_matrices(model: bytes) -> int:
    graph = onnx.load_from_string(model).graph
    return sum(each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1 for each in graph.initializer)
