"""Small surgery on ONNX models that others exported: one length for every axis, labels in the task's order, a head. Runs nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from outrider_export.to_onnx import canonical

BATCH = "batch"
LOGITS = "logits"


def settled(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], *, logits: str, order: Sequence[int]) -> bytes:
    """Canonical bytes of a classifier that reads exactly ``shapes`` (without the batch axis) and gives `LOGITS`.

    Args:
        model: changed in place.
        shapes: each input's.
        logits: its output that counts; others are dropped.
        order: for each label of the task, the place of its logit.
    """
    graph = model.graph
    for entry in graph.input:
        _shape(entry, [BATCH, *shapes[entry.name]])
    if list(order) != list(range(len(order))):
        constant(graph, "outrider_order", np.asarray(order, np.int64))
        graph.node.append(helper.make_node("Gather", [logits, "outrider_order"], ["outrider_ordered"], axis=1))
        logits = "outrider_ordered"
    if logits != LOGITS:
        _rename(graph, LOGITS, "outrider_unordered")
        graph.node.append(helper.make_node("Identity", [logits], [LOGITS]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, len(order)]))
    _name_nodes(graph)
    return canonical(model)


def with_pooling(model: onnx.ModelProto, *, hidden: str, rank: int, mask: str | None, prefix: str = "outrider") -> str:
    """Adds the mean of an encoder's hidden state (batch, places, d) or maps (batch, d, h, w); gives the features' name.

    ``mask``: the input that says which places hold text; padding then does not count, and of a text of nothing else it is zero.
    ``prefix``: of the names of what is added.
    """
    graph, made = model.graph, f"{prefix}_features"
    if rank != 3 or mask is None:
        axes = [1] if rank == 3 else [2, 3]
        constant(graph, f"{prefix}_axes", np.asarray(axes, np.int64))
        graph.node.append(helper.make_node("ReduceMean", [hidden, f"{prefix}_axes"], [made], keepdims=0))
        return made
    constant(graph, f"{prefix}_last", np.asarray([2], np.int64))
    constant(graph, f"{prefix}_places", np.asarray([1], np.int64))
    constant(graph, f"{prefix}_least", np.asarray(1, np.float32))
    graph.node.extend(
        [
            helper.make_node("Cast", [mask], [f"{prefix}_mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{prefix}_mask", f"{prefix}_last"], [f"{prefix}_weights"]),
            helper.make_node("Mul", [hidden, f"{prefix}_weights"], [f"{prefix}_weighted"]),
            helper.make_node("ReduceSum", [f"{prefix}_weighted", f"{prefix}_places"], [f"{prefix}_sum"], keepdims=0),
            helper.make_node("ReduceSum", [f"{prefix}_weights", f"{prefix}_places"], [f"{prefix}_held"], keepdims=0),
            helper.make_node("Max", [f"{prefix}_held", f"{prefix}_least"], [f"{prefix}_count"]),
            helper.make_node("Div", [f"{prefix}_sum", f"{prefix}_count"], [made]),
        ]
    )
    return made


def featuring(model: onnx.ModelProto, features: str, shapes: Mapping[str, Sequence[int]]) -> bytes:
    """Canonical bytes of a copy that gives nothing but ``features`` (batch, d)."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for entry in made.graph.input:
        _shape(entry, [BATCH, *shapes[entry.name]])
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, [BATCH, None]))
    return canonical(made)


def with_head(model: onnx.ModelProto, features: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
    """Adds a linear layer, weight (labels, d) and bias (labels,), on ``features`` (batch, d); gives its output's name."""
    constant(model.graph, "outrider_head.weight", weight)
    constant(model.graph, "outrider_head.bias", bias)
    inputs = [features, "outrider_head.weight", "outrider_head.bias"]
    model.graph.node.append(helper.make_node("Gemm", inputs, ["outrider_head"], transB=1))
    return "outrider_head"


def with_log(model: onnx.ModelProto, probabilities: str, *, least: float = 1e-7) -> str:
    """Adds the logarithm of probabilities: logits of a model that gives only these; gives its name."""
    constant(model.graph, "outrider_least", np.asarray(least, np.float32))
    model.graph.node.append(helper.make_node("Max", [probabilities, "outrider_least"], ["outrider_positive"]))
    model.graph.node.append(helper.make_node("Log", ["outrider_positive"], ["outrider_log"]))
    return "outrider_log"


def _shape(entry: onnx.ValueInfoProto, sides: Sequence[int | str]) -> None:
    del entry.type.tensor_type.shape.dim[:]
    for side in sides:
        dim = entry.type.tensor_type.shape.dim.add()
        if isinstance(side, str):
            dim.dim_param = side
        else:
            dim.dim_value = side


def constant(graph: onnx.GraphProto, name: str, values: NDArray[np.generic]) -> None:
    """Adds a tensor that is the same for every input."""
    graph.initializer.append(numpy_helper.from_array(values, name))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def _name_nodes(graph: onnx.GraphProto) -> None:
    """The quantizer leaves layers in floating point by name."""
    for place, node in enumerate(graph.node):
        node.name = node.name or f"node_{place}"
