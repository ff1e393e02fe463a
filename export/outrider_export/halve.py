"""16-bit floating point of an ONNX model, inputs and outputs in 32. Knows no bundles and no labels."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from outrider_export.branches import name_nodes, operators, side_branch
from outrider_export.to_onnx import canonical
from outrider_wire.manifest import LeftInFloat


@dataclass(frozen=True, kw_only=True)
class Halved:
    """The model, and what of it is not 16-bit."""

    data: bytes
    left: Sequence[LeftInFloat]


def to_fp16(model: bytes, *, logits: str = "logits", exact: Sequence[str] = ()) -> Halved:
    """Weights and arithmetic in 16 bits; same input, same bytes.

    What leads to an output of ``exact`` and not to the logits stays in 32 bits, and so do operators without a 16-bit form
    (`onnxruntime.transformers.float16.DEFAULT_OP_BLOCK_LIST`).
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    loaded = onnx.load_from_string(model)
    name_nodes(loaded.graph)
    aside = side_branch(loaded.graph, logits, exact)
    others = {node.name for node in loaded.graph.node if node.op_type in DEFAULT_OP_BLOCK_LIST} - aside
    left = []
    if counted := operators(loaded.graph, aside):
        why = "its sums of squares overflow 16 bits"
        left.append(LeftInFloat(what=f"what leads to {' and '.join(exact)} alone", why=why, operators=counted))
    if counted := operators(loaded.graph, others):
        why = "they have no 16-bit form that every runtime has"
        left.append(LeftInFloat(what="operators on the way to the logits", why=why, operators=counted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each weight too small for 16 bits: parity tells what it comes to
        halved = convert_float_to_float16(loaded, keep_io_types=True, node_block_list=sorted(aside))
    _join(halved.graph)
    sorted_ = ONNXModel(halved)
    sorted_.topological_sort()  # the converter appends its casts
    return Halved(data=canonical(sorted_.model), left=left)


def _join(graph: onnx.GraphProto) -> None:
    """Takes out what goes to 16 bits and straight back: the converter puts it between any two nodes that were to stay in 32.

    Where nothing else reads the 16-bit value it goes too.
    """
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    origin: dict[str, str] = {}
    for name, node in casts.items():
        before = casts.get(node.input[0])
        if before is not None and _kind(node) == TensorProto.FLOAT and _kind(before) == TensorProto.FLOAT16:
            origin[name] = before.input[0]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = origin.get(name, name)
    for output in graph.output:
        if output.name in origin:
            casts[output.name].input[0] = origin[output.name]
    wanted = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    # A cast back that nobody reads any longer takes the only reader of the cast before it along.
    dead = [node for name, node in casts.items() if name not in wanted]
    for node in dead:
        graph.node.remove(node)
    wanted = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for name, node in casts.items():
        if node not in dead and name not in wanted:
            graph.node.remove(node)


def _kind(cast: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")
