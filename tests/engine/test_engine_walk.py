"""The walk refuses what no model may ask for, wherever in the file it stands, and describes the rest."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from factory import LABELS, onnx_bytes
from outrider_engine.walk import TensorFact, walk
from outrider_wire.errors import BundleDamagedError, BundleError

ASSETS = Path(__file__).parents[1] / "assets"
DAMAGED = BundleDamagedError
SOUND = onnx_bytes(LABELS)


def test_the_walk_sees_what_the_onnx_package_sees() -> None:
    facts, graph = walk(SOUND), onnx.load_from_string(SOUND).graph
    assert facts.inputs == [
        TensorFact("pixels", "float32", ("batch", 3, 32, 32)),
        TensorFact("words", "float32", ("batch", 96)),
    ]
    assert [fact.name for fact in facts.outputs] == [output.name for output in graph.output]
    assert sum(facts.operators.values()) == len(graph.node)
    assert set(facts.operators) == {node.op_type for node in graph.node}
    assert facts.opset == 18
    assert facts.parameters_bytes == sum(tensor.ByteSize() for tensor in graph.initializer)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool"])
def test_a_constant_is_sound_as_raw_bytes_and_as_a_list(dtype: str) -> None:
    values = np.ones((2, 3), dtype=dtype)
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    for tensor in (
        numpy_helper.from_array(values, "raw"),
        helper.make_tensor("typed", kind, values.shape, values.flatten().tolist()),
        numpy_helper.from_array(values[:0], "none"),
    ):
        model = onnx.load_from_string(SOUND)
        model.graph.initializer.append(tensor)
        walk(model.SerializeToString())


def test_quantized_operators_of_the_runtime_are_allowed_and_named_with_their_domain() -> None:
    model = onnx.load_from_string(SOUND)
    model.graph.node.append(helper.make_node("QGemm", ["told"], ["b"], domain="com.microsoft"))
    assert walk(model.SerializeToString()).operators["com.microsoft.QGemm"] == 1


def test_an_input_that_is_a_constant_is_not_asked_of_the_caller() -> None:
    """Files of ONNX before IR version 4 list every constant as an input too."""
    model = onnx.load_from_string(SOUND)
    model.graph.input.append(helper.make_tensor_value_info("offset", 1, [3]))
    assert [fact.name for fact in walk(model.SerializeToString()).inputs] == ["pixels", "words"]


def test_a_domain_given_twice_does_not_hide_the_second() -> None:
    """Parsers take the last of a repeated string: a walk that looked at the first would be fooled."""
    model = onnx.load_from_string(SOUND)
    del model.graph.node[:]
    node = helper.make_node("Relu", ["a"], ["b"], domain="ai.onnx").SerializeToString() + b"\x3a\x04evil"
    field = b"\x0a" + bytes([len(node)]) + node
    graph = model.graph.SerializeToString() + field
    data = b"\x08\x0a\x3a" + _varint(len(graph)) + graph
    assert onnx.load_from_string(data).graph.node[0].domain == "evil"
    with pytest.raises(DAMAGED):
        walk(data)


def test_a_file_of_countless_tiny_fields_is_given_up() -> None:
    with pytest.raises(DAMAGED, match="more fields than are read"):
        walk(b"\x08\x01" * 20_000, fields=10_000)


@given(st.integers(0, len(SOUND) * 8 - 1))
def test_a_flipped_bit_gives_a_bundle_error_or_passes(bit: int) -> None:
    data = bytearray(SOUND)
    data[bit // 8] ^= 1 << bit % 8
    _walk_or_refuse(bytes(data))


@given(st.binary(max_size=200))
def test_random_bytes_give_a_bundle_error_or_pass(data: bytes) -> None:
    _walk_or_refuse(data)
    _walk_or_refuse(b"\x3a" + _varint(len(data)) + data)


def _walk_or_refuse(data: bytes) -> None:
    try:
        walk(data)
    except BundleError as error:
        assert error.reason


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
