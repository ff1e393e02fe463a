"""INT8 of graphs that are written down here: ranges by each rule, masks, small tokens, nameless nodes, and files of an old opset."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from outrider_engine.session import OrtSession
from outrider_engine.walk import walk
from outrider_export.quantize import to_int8
from outrider_export.ranges import find_ranges
from outrider_export.recipes import Ranges, Scheme
from outrider_wire.errors import OperatorConfigError


def test_the_three_rules_find_three_ranges(tmp_path: Path) -> None:
    """A hundred values near 0 and one far away: min-max holds it, percentile and entropy do not."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["logits"], name="r"),
    ]
    model = _model(nodes, {"w": np.eye(4, dtype=np.float32)}, ["batch", 4], ["batch", 4])
    file = tmp_path / "model.onnx"
    file.write_bytes(model)
    values = np.random.default_rng(0).normal(size=(50_000, 4)).astype(np.float32)
    values[7, 2] = 400.0
    found = {
        rule: find_ranges(file, [{"x": values}], rule, operators=["MatMul", "Relu"]).ranges["h"].range_value[1]
        for rule in ("min-max", "entropy", "percentile")
    }
    assert found["min-max"] == pytest.approx(400.0)
    assert found["percentile"] < 20
    assert found["entropy"] < 200


def test_a_transformer_s_mask_stays_in_floating_point_and_is_named() -> None:
    """With 8 bits from −3.4e38 to 3 nothing is left of the scores that it is added to."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["before"]),
        helper.make_node("Tanh", ["before"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"]),
        helper.make_node("MatMul", ["shares", "w"], ["logits"]),
    ]
    weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "vw"}
    weights["mask"] = np.array([0, 0, 0, np.finfo(np.float32).min], np.float32)
    feeds = [{"x": rng.normal(size=(64, 4)).astype(np.float32)}]
    model = _model(nodes, weights, ["batch", 4], ["batch", 4])
    for rule in ("min-max", "entropy", "percentile"):
        found = to_int8(model, feeds, scheme=Scheme(ranges=rule))
        [mask] = [left for left in found.left if "mask" in left.what]
        assert mask.operators["Add"] == 1
        assert found.agreement >= 0.9


def test_a_small_token_beside_a_large_one_survives_8_bits() -> None:
    """A transformer's class token is a thousandth of the others, and is normalised by itself; one range for all makes it zero."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "sizes"], ["tokens"]),
        helper.make_node("LayerNormalization", ["tokens", "scale"], ["normal"], axis=-1),
        helper.make_node("Gather", ["normal", "first"], ["token"], axis=1),
        helper.make_node("MatMul", ["token", "w"], ["logits"]),
    ]
    weights: dict[str, Any] = {name: rng.normal(size=(8, 8)).astype(np.float32) for name in "vw"}
    weights |= {"sizes": np.array([[0.001], [10.0]], np.float32), "scale": np.ones(8, np.float32), "first": np.array(0)}
    model = _model(nodes, weights, ["batch", 2, 8], ["batch", 8])
    found = to_int8(model, [{"x": rng.normal(size=(64, 2, 8)).astype(np.float32)}])
    assert (found.agreement >= 0.9, found.float_layers) == (True, 0)
    [left] = found.left
    assert left.operators["LayerNormalization"] == 1
    assert "token" in left.why


def test_nodes_without_names_are_told_apart() -> None:
    """Both layers are nameless, and the last one only may stay in floating point."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["logits"]),
    ]
    weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "vw"}
    feeds = [{"x": rng.normal(size=(64, 4)).astype(np.float32)}]
    found = to_int8(_model(nodes, weights, ["batch", 4], ["batch", 4]), feeds, scheme=Scheme(ranges="dynamic"))
    assert walk(found.data).operators["MatMulInteger"] == 2 - found.float_layers


@pytest.mark.parametrize("ranges", ["min-max", "dynamic"])
def test_a_file_of_an_old_opset_becomes_8_bit_too(ranges: Ranges) -> None:
    """Opset 12 knows one scale a tensor, and its ReduceMean has its axes as an attribute."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["deep"]),
        helper.make_node("Unsqueeze", ["deep"], ["wide"], axes=[2]),
        helper.make_node("ReduceSum", ["wide"], ["logits"], axes=[2], keepdims=0),
    ]
    weights = {name: rng.normal(size=(32, 32)).astype(np.float32) for name in "vw"}
    model = _model(nodes, weights, ["batch", 32], ["batch", 32], opset=12)
    feeds = {"x": rng.normal(size=(64, 32)).astype(np.float32)}
    found = to_int8(model, [feeds], scheme=Scheme(ranges=ranges))
    before, after = (OrtSession(each).run(feeds)["logits"] for each in (model, found.data))
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_an_operator_that_no_newer_opset_has_is_named_by_a_sentence_and_not_by_a_stack() -> None:
    nodes = [helper.make_node("Affine", ["x"], ["logits"], alpha=2.0, beta=1.0)]
    with pytest.raises(OperatorConfigError) as refused:
        to_int8(_model(nodes, {}, ["batch", 4], ["batch", 4], opset=7), [{"x": np.ones((2, 4), np.float32)}])
    assert (refused.value.reason, "opset 13" in refused.value.what) == ("unsupported_opset", True)


def _model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], takes: list[Any], gives: list[Any], *, opset: int = 20
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, gives)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return bytes(model.SerializeToString())
