"""Models and rows that cannot be exported: each refused by the name of what is wrong, before anything is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from outrider_engine.walk import walk
from outrider_export.data import Table, Tensors
from outrider_export.feeds import check_feeds
from outrider_export.first_look import first_look
from outrider_export.fixed_shapes import FIXED_SHAPES, needs_fixed_shapes, one_by_one
from outrider_export.operator_support import check_operators, untranslated
from outrider_export.students import Architecture
from outrider_export.to_onnx import OPSET, export_onnx
from outrider_export.variants import make_variants
from outrider_wire.errors import BundleDamagedError, BundleUnsafeError, OperatorConfigError
from outrider_wire.task import Task

ASSETS = Path(__file__).parents[1] / "assets"
Squares = Callable[[int, int], Table]


@pytest.fixture(scope="module")
def rows(squares: Squares, architecture: Architecture, task: Task) -> Tensors:
    return squares(20, 4).tensors(architecture.inputs(task))


def onnx_of(*nodes: onnx.NodeProto, opset: int = OPSET, shape: Any = ("batch", 3, 16, 16)) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


POOL = helper.make_node("GlobalAveragePool", ["image"], ["pooled"])
FLAT = helper.make_node("Flatten", ["pooled"], ["logits"])
ACTIVE = helper.make_node("Gelu", ["pooled"], ["active"])
FLAT_ACTIVE = helper.make_node("Flatten", ["active"], ["logits"])


def test_an_operator_that_its_opset_has_not_is_named_with_the_one_that_has_it(
    rows: Tensors, architecture: Architecture, task: Task
) -> None:
    old = onnx_of(POOL, ACTIVE, FLAT_ACTIVE, opset=17)
    with pytest.raises(OperatorConfigError) as refused:
        make_variants(old, architecture.inputs(task), tuning=rows, calibration=rows, support=rows, precisions=["fp32"])
    assert refused.value.reason == "unsupported_operator"
    assert "Gelu" in refused.value.what
    assert "since opset 20" in refused.value.fix
    check_operators(walk(onnx_of(POOL, ACTIVE, FLAT_ACTIVE, opset=20)))


def test_an_operator_that_no_opset_has_is_named() -> None:
    with pytest.raises(OperatorConfigError, match="WarpDrive") as refused:
        check_operators(walk(onnx_of(helper.make_node("WarpDrive", ["image"], ["logits"]))))
    assert "no opset" in refused.value.fix


def test_an_opset_of_the_future_is_refused() -> None:
    with pytest.raises(OperatorConfigError) as refused:
        check_operators(walk(onnx_of(POOL, FLAT, opset=999)))
    assert refused.value.reason == "unsupported_opset"


class Bessel(nn.Module):
    """ONNX has no such function."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(image).mean((2, 3))


class Branching(nn.Module):
    """Its way depends on values."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)) if image.sum() > 0 else image.amax((2, 3))


def test_an_operator_of_torch_that_onnx_lacks_is_named(architecture: Architecture, task: Task) -> None:
    with pytest.raises(OperatorConfigError, match="bessel_j0") as refused:
        export_onnx(Bessel(), architecture.inputs(task), ["logits"])
    assert refused.value.reason == "unsupported_operator"


def test_an_operator_of_torch_that_a_later_opset_has_is_told_with_it() -> None:
    found = untranslated("Error when translating node %a : [target=torch.ops.aten.rms_norm.default]", OPSET)
    assert found is None or "opset" in found.fix
    later = untranslated("target=torch.ops.aten.rms_normalization.default", OPSET)
    assert later is not None
    assert "since opset 23" in later.fix
    assert untranslated("something else went wrong", OPSET) is None


def test_a_module_whose_way_depends_on_values_is_told_apart(architecture: Architecture, task: Task) -> None:
    from outrider_wire.errors import BundleMismatchError

    with pytest.raises(BundleMismatchError) as refused:
        export_onnx(Branching(), architecture.inputs(task), ["logits"])
    assert refused.value.reason == "export_failed"
    assert "values" in refused.value.fix


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda values: values.astype(np.float64), "float64"),
        (lambda values: values[:, :, :8], r"\(3, 8, 16\)"),
        (lambda values: values[:, 0], r"\(16, 16\)"),
        (lambda values: values * np.float32("nan"), "NaN"),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused_by_tensor(rows: Tensors, spoil: Any, said: str) -> None:
    facts = walk(onnx_of(POOL, FLAT)).inputs
    check_feeds(facts, rows, whose="calibration")
    with pytest.raises(OperatorConfigError, match=said) as refused:
        check_feeds(facts, replace(rows, values={"image": spoil(rows.values["image"])}), whose="calibration")
    assert refused.value.reason == "calibration_mismatch"
    assert "image" in refused.value.what


def test_rows_of_other_tensors_or_none_are_refused(rows: Tensors) -> None:
    facts = walk(onnx_of(POOL, FLAT)).inputs
    with pytest.raises(OperatorConfigError, match="photo"):
        check_feeds(facts, replace(rows, values={"photo": rows.values["image"]}), whose="calibration")
    with pytest.raises(OperatorConfigError, match="no calibration rows"):
        check_feeds(facts, rows.take(np.zeros(0, np.int64)), whose="calibration")


def test_calibration_rows_of_another_shape_stop_an_export(
    rows: Tensors, architecture: Architecture, task: Task
) -> None:
    spoilt = replace(rows, values={"image": rows.values["image"][:, :, :8]})
    with pytest.raises(OperatorConfigError) as refused:
        make_variants(
            onnx_of(POOL, FLAT),
            architecture.inputs(task),
            tuning=rows,
            calibration=spoilt,
            support=rows,
            precisions=["int8"],
        )
    assert refused.value.reason == "calibration_mismatch"


def test_an_axis_of_any_size_is_named_where_a_compiler_needs_it_fixed() -> None:
    free = onnx_of(POOL, FLAT, shape=("batch", 3, "height", 16))
    with pytest.raises(OperatorConfigError) as refused:
        one_by_one(free, wanted_by="QNNExecutionProvider of profile mine")
    assert refused.value.reason == "dynamic_shape"
    assert "axis 2 (height) of input 'image'" in refused.value.what
    assert "profile mine" in refused.value.what


def test_only_compilers_need_fixed_shapes() -> None:
    assert not needs_fixed_shapes(["CUDAExecutionProvider", "CPUExecutionProvider"])
    for name in FIXED_SHAPES:
        assert name in needs_fixed_shapes([name, "CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("asset", "reason"),
    [
        ("models/external-data.onnx", "external_data"),
        ("models/foreign-operator.onnx", "foreign_operator"),
        ("models/foreign-function.onnx", "foreign_operator"),
        ("models/unfolds-to-terabytes.onnx", "tensor_shape"),
        ("bombs/asks-for-16-gib.onnx", "out_of_memory"),
        ("bombs/folds-to-4-gib.onnx", "out_of_memory"),
    ],
)
def test_a_hostile_onnx_file_does_not_survive_its_first_look(asset: str, reason: str) -> None:
    with pytest.raises(BundleUnsafeError) as refused:
        first_look((ASSETS / asset).read_bytes())
    assert refused.value.reason == reason


def test_a_file_that_runs_for_ever_is_stopped() -> None:
    with pytest.raises(BundleUnsafeError) as refused:
        first_look((ASSETS / "bombs/loops-for-ever.onnx").read_bytes(), timeout_s=3.0)
    assert refused.value.reason == "timeout"


def test_a_file_that_is_none_is_damaged_and_a_sound_one_passes() -> None:
    with pytest.raises(BundleDamagedError):
        first_look(b"\x00no onnx")
    assert first_look(onnx_of(POOL, FLAT)).operators == {"GlobalAveragePool": 1, "Flatten": 1}
