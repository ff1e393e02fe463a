"""16-bit floating point of an ONNX model, inputs and outputs in 32. Knows no bundles and no labels."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

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
    sorted_ = ONNXModel(halved)
    sorted_.topological_sort()  # the converter appends its casts
    return Halved(data=canonical(sorted_.model), left=left)
