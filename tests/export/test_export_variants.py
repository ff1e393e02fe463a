"""The table of variants: each is what its row says, within its tolerance or not shipped, and says what it left in floating point."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from absent import skip_without
from onnx import TensorProto, numpy_helper
from torch import nn

from outrider_engine.model import load_model
from outrider_engine.session import OrtSession
from outrider_engine.walk import walk
from outrider_export.build import build_bundle, rather
from outrider_export.data import Table, Tensors
from outrider_export.parity import interval, parity, run_rows
from outrider_export.recipes import RECIPES, Tolerance, find_recipe, recipes_like, recipes_of
from outrider_export.students import Architecture
from outrider_export.variants import Variants, make_variants
from outrider_wire.errors import BundleMismatchError, OperatorConfigError, RuleRefusalError
from outrider_wire.manifest import Outputs, Variant
from outrider_wire.task import Task

Squares = Callable[[int, int], Table]
EIGHT_BIT = [name for name, recipe in RECIPES.items() if recipe.precision == "int8"]


@pytest.fixture(scope="module")
def rows(squares: Squares, architecture: Architecture, task: Task) -> Tensors:
    return squares(150, 4).tensors(architecture.inputs(task))


def made_of(model: nn.Module | bytes, rows: Tensors, inputs: Any, names: Sequence[str], **more: Any) -> Variants:
    return make_variants(model, inputs, tuning=rows, calibration=rows, support=rows, precisions=names, **more)


@pytest.fixture(scope="module")
def made(trained: nn.Module, rows: Tensors, architecture: Architecture, task: Task) -> Variants:
    """All of them, whatever their parity."""
    return made_of(trained, rows, architecture.inputs(task), list(RECIPES), forced=list(RECIPES))


def graph_of(made: Variants, name: str) -> onnx.GraphProto:
    return onnx.load_from_string(made.files[f"model.{name}.onnx"]).graph


def test_every_row_of_the_table_becomes_a_file_that_a_device_would_load(made: Variants) -> None:
    assert [each.name for each in made.variants] == list(RECIPES)
    for each in made.variants:
        assert walk(made.files[each.file]).outputs[0].name == "logits"
        assert each.about == RECIPES[each.name].about
        assert each.precision == RECIPES[each.name].precision
        assert len({made.files[other.file] for other in made.variants}) >= 6


def test_the_same_rows_give_the_same_bytes_of_every_variant(
    made: Variants, rows: Tensors, architecture: Architecture, task: Task
) -> None:
    names = [name for name in RECIPES if name != "int8-entropy"]
    again = made_of(made.files["model.fp32.onnx"], rows, architecture.inputs(task), names, forced=names)
    for file, data in again.files.items():
        assert data == made.files[file]


def test_fp16_holds_its_weights_in_half_and_answers_in_32_bits(made: Variants) -> None:
    graph = graph_of(made, "fp16")
    kinds = {entry.data_type for entry in graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    [branch] = [left for left in made.variants[1].left_in_float if "support" in left.what]
    assert branch.operators["Sqrt"] >= 1


def test_the_symmetric_variant_is_what_tensorrt_takes(made: Variants) -> None:
    """No zero point but 0, signed activations, and no 32-bit integer behind a DequantizeLinear."""
    graph = graph_of(made, "int8-symmetric")
    values = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    linear = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert linear
    for node in linear:
        if len(node.input) > 2:
            assert values[node.input[2]].dtype == np.int8
            assert not values[node.input[2]].any()
        if node.input[0] in values:
            assert values[node.input[0]].dtype == np.int8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "built"),
    [("fp32", True), ("fp16", True), ("int8-symmetric", True), ("int8", False), ("int8-dynamic", False)],
)
def test_tensorrt_builds_an_engine_of_what_is_for_it_and_of_nothing_else(
    made: Variants, name: str, built: bool
) -> None:
    """The real builder, for a graphics card that need not be here."""
    if find_spec("tensorrt_rtx") is None:
        skip_without("tensorrt_rtx", "pip install tensorrt-rtx-cu12")
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parsed = trt.OnnxParser(network, logger).parse(made.files[f"model.{name}.onnx"])
    assert parsed == built
    if parsed:
        settings = builder.create_builder_config()
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(trt.ComputeCapability.SM86, 0)
        shapes = builder.create_optimization_profile()
        shapes.set_shape("image", (1, 3, 16, 16), (1, 3, 16, 16), (8, 3, 16, 16))
        settings.add_optimization_profile(shapes)
        assert builder.build_serialized_network(network, settings) is not None


def test_the_usual_int8_would_not_do_for_tensorrt(made: Variants) -> None:
    """The negative control of the test above."""
    graph = graph_of(made, "int8")
    values = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    points = [values[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert any(point.any() or point.dtype != np.int8 for point in points)


def test_weights_leave_a_bit_free_where_processors_saturate(made: Variants) -> None:
    for name, most in (("int8", 64), ("int8-dynamic", 64), ("int8-symmetric", 127)):
        multiplied = [each for each in graph_of(made, name).initializer if "factors" not in each.name]
        weights = [numpy_helper.to_array(each) for each in multiplied]
        largest = max(np.abs(each.astype(int)).max() for each in weights if each.dtype == np.int8 and each.ndim > 1)
        assert largest <= most
        assert largest > most / 2


def test_dynamic_int8_finds_its_ranges_as_it_runs(made: Variants) -> None:
    operators = walk(made.files["model.int8-dynamic.onnx"]).operators
    assert operators.get("DynamicQuantizeLinear")
    assert "QuantizeLinear" not in operators


def test_a_variant_that_scales_by_its_batch_is_compared_as_a_device_asks_it(made: Variants, rows: Tensors) -> None:
    session = OrtSession(made.files["model.int8-dynamic.onnx"])
    alone = np.concatenate([session.run(rows.batch(slice(row, row + 1)))["logits"] for row in range(20)])
    together = session.run(rows.batch(slice(0, 20)))["logits"]
    assert np.array_equal(made.said["int8-dynamic"]["logits"][:20], alone)
    assert not np.array_equal(together, alone), "a batch is another thing"


def test_what_was_left_in_floating_point_is_said_with_the_reason(made: Variants) -> None:
    for each in made.variants:
        if each.precision == "int8":
            branch = next(left for left in each.left_in_float if "support" in left.what)
            assert branch.why
            assert branch.operators["MatMul"] >= 1
    symmetric = next(each for each in made.variants if each.name == "int8-symmetric")
    assert [left.what for left in symmetric.left_in_float if "TensorRT" in left.why] == ["biases"]


def test_parity_tells_accuracy_with_its_interval_and_the_calibration_error(made: Variants) -> None:
    for each in made.variants:
        figures = each.parity
        assert figures["accuracy_low"] < figures["accuracy"] <= figures["accuracy_high"]
        assert figures["n"] == 150
        assert 0 <= figures["calibration_error"] < 0.2
        assert figures["mean_abs"] <= figures["max_abs"]


def test_the_interval_of_the_accuracy_is_clopper_and_pearson_s() -> None:
    from scipy.stats import binomtest

    for right, n in ((0, 10), (7, 10), (10, 10), (931, 1000)):
        known = binomtest(right, n).proportion_ci(0.95, "exact")
        assert interval(right, n) == pytest.approx((known.low, known.high), abs=1e-6)


def test_the_interval_holds_the_truth_as_often_as_it_says_and_a_narrower_one_does_not() -> None:
    """Not drawn but summed over every outcome; the narrower one is the negative control."""
    from scipy.stats import binom

    rights = np.arange(61)
    chances = binom.pmf(rights, 60, 0.9)
    exact, narrow = (
        sum(chances[right] for right in rights if (bounds := interval(int(right), 60, alpha))[0] <= 0.9 <= bounds[1])
        for alpha in (0.05, 0.5)
    )
    assert exact >= 0.95
    assert narrow < 0.9


TIGHT = Tolerance(agreement=0.99, mean_share=0.01, support=0.9)


@pytest.mark.parametrize(
    ("agreement", "mean_share", "fault"),
    [(0.99, 0.01, ""), (0.9899, 0.0, "98.99%"), (1.0, 0.02, "2.00%"), (float("nan"), float("nan"), "nan%")],
)
def test_a_tolerance_refuses_what_is_beyond_it(agreement: float, mean_share: float, fault: str) -> None:
    found = TIGHT.fault({"agreement": agreement, "mean_share": mean_share})
    assert fault in found
    assert bool(found) == bool(fault)


class Fragile(nn.Module):
    """Its answer is a difference that 8 bits of its own inputs' range cannot hold."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.register_buffer(
            "weights", torch.tensor([[1e4, 1e4, 1e4], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([image.new_ones((image.shape[0], 1)), image.mean((2, 3))], 1)
        logits: torch.Tensor = (seen @ self.weights).relu()
        return logits - logits.mean(1, keepdim=True)


def test_a_support_distance_that_went_its_own_way_is_out_of_tolerance() -> None:
    near = {"agreement": 1.0, "mean_share": 0.0}
    assert not TIGHT.fault({**near, "support_correlation": 0.95})
    assert "support distance" in TIGHT.fault({**near, "support_correlation": 0.4})
    zeros, far = np.zeros((4, 3)), np.array([1.0, np.inf, 2.0, np.nan])
    figures = parity(
        {"logits": zeros, "support": np.arange(4.0)},
        {"logits": zeros, "support": far},
        np.zeros(4, np.int64),
        Outputs(support="support"),
    )
    assert "support distance" in TIGHT.fault(figures)
    assert np.isfinite(list(figures.values())).all()


def test_the_support_branch_reads_its_input_as_it_came(made: Variants) -> None:
    """The quantizer would hand its 8-bit form to every reader, and the distance is made of small differences."""
    for name in ("int8", "int8-symmetric"):
        graph = graph_of(made, name)
        readers = {node.op_type for node in graph.node if "image" in node.input}
        assert "QuantizeLinear" in readers
        assert len(readers) > 1


def test_nothing_of_the_support_branch_passes_through_16_bits(made: Variants) -> None:
    """The converter puts two casts between any two nodes that are to stay in 32 bits, where a square overflows."""
    graph = graph_of(made, "fp16")
    producer = {node.output[0]: node for node in graph.node}
    casts = [node for node in graph.node if node.op_type == "Cast"]
    there_and_back = [node for node in casts if node.input[0] in producer and producer[node.input[0]] in casts]
    assert casts
    assert not there_and_back
    figures = next(each.parity for each in made.variants if each.name == "fp16")
    assert figures["support_correlation"] > 0.999


def test_a_variant_out_of_its_tolerance_does_not_ship_and_the_bundle_says_so(
    task: Task, architecture: Architecture, squares: Squares, tmp_path: Path
) -> None:
    own = {"task": task, "architecture": architecture, "tuning": squares(80, 5), "certification": None, "version": "1"}
    module = Fragile(task).eval()
    report = build_bundle(model=module, out=tmp_path / "out", precisions=("int8-dynamic", "fp32"), **own)
    assert [each.name for each in report.manifest.variants] == ["fp32"]
    assert "is asked for" in report.manifest.provenance["left-out-int8-dynamic"]
    assert any("int8-dynamic does not ship" in sentence for sentence in report.sentences)

    unwatched = build_bundle(
        model=module,
        out=tmp_path / "rather",
        precisions=("int8-dynamic", "fp32"),
        choose=rather(["int8-dynamic"]),
        **own,
    )
    assert [each.name for each in unwatched.manifest.variants] == ["fp32"]

    forced = build_bundle(
        model=module, out=tmp_path / "forced", precisions=("int8-dynamic", "fp32"), forced=["int8-dynamic"], **own
    )
    assert [each.name for each in forced.manifest.variants] == ["int8-dynamic", "fp32"]
    assert "is asked for" in forced.manifest.variants[0].forced
    assert load_model(tmp_path / "forced").manifest.variants[0].forced == forced.manifest.variants[0].forced
    assert any("ships by force" in sentence for sentence in forced.sentences)


class Weightless(nn.Module):
    """Nothing of it can become 8-bit weights."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))


class Counting(Weightless):
    """Its forward takes the number of rows for a constant."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * torch.ones(len(image), 1)


def test_a_module_that_fixes_the_batch_is_named_as_that(rows: Tensors, architecture: Architecture, task: Task) -> None:
    with pytest.raises(BundleMismatchError) as fixed:
        made_of(Counting().eval(), rows, architecture.inputs(task), ["fp32"])
    assert fixed.value.reason == "fixed_batch"
    assert "shape[0]" in fixed.value.fix


def test_when_no_variant_is_near_enough_nothing_is_written(
    task: Task, architecture: Architecture, squares: Squares, tmp_path: Path
) -> None:
    with pytest.raises(RuleRefusalError) as refused:
        build_bundle(
            task=task,
            model=Fragile(task).eval(),
            architecture=architecture,
            tuning=squares(80, 5),
            certification=None,
            out=tmp_path / "out",
            version="1",
            precisions=("int8-dynamic",),
        )
    assert refused.value.reason == "out_of_tolerance"
    assert "--force int8-dynamic" in refused.value.fix
    assert not list(tmp_path.iterdir())


def test_fp32_under_another_name_does_not_ship(rows: Tensors, architecture: Architecture, task: Task) -> None:
    made = made_of(Weightless().eval(), rows, architecture.inputs(task), ["int8-dynamic", "fp32"])
    assert [each.name for each in made.variants] == ["fp32"]
    assert "under another name" in made.left_out["int8-dynamic"]


def test_models_of_one_row_at_a_time_are_compared_and_quantized_too(
    rows: Tensors, made: Variants, architecture: Architecture, task: Task
) -> None:
    fixed = made_of(
        made.files["model.fp32.onnx"], rows, architecture.inputs(task), ["fp32", "int8"], fixed_for="a compiler"
    )
    for file in fixed.files.values():
        assert [fact.shape for fact in walk(file).inputs] == [(1, 3, 16, 16)]
    whole = run_rows(OrtSession(made.files["model.int8.onnx"]), rows)["logits"]
    one_by_one = run_rows(OrtSession(fixed.files["model.int8.onnx"]), rows)["logits"]
    assert np.abs(whole - one_by_one).max() < 0.05 * np.abs(whole).max()
    again = made_of(fixed.files["model.fp32.onnx"], rows, architecture.inputs(task), ["int8"])
    assert again.variants[0].parity["agreement"] >= 0.98


def test_a_name_that_no_row_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(OperatorConfigError) as unknown:
        find_recipe("int8-entropie")
    assert "did you mean int8-entropy?" in unknown.value.fix


def test_a_profile_s_precisions_are_recipes_in_their_order() -> None:
    assert recipes_of(["fp16", "int8"]) == ["fp16", *EIGHT_BIT]
    assert set(recipes_of([])) == set(RECIPES)
    other = Variant(name="mine", file="m.onnx", precision="int8")
    assert recipes_like([other, Variant(name="int8-entropy", file="n.onnx", precision="int8")]) == [
        "int8",
        "int8-entropy",
    ]
