"""What an ONNX classifier that others exported shows of an input on its way to the answer: tensors that are there, or a few nodes off.

Three views, as the shipped students have them (`outrider_export.support`): the input itself, the first layer, and what the last layer
decides by. Adds nodes to a graph; runs and fits nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from outrider_export.graphs import constant, with_pooling
from outrider_wire.manifest import ModelInput

_BETWEEN = frozenset({"Identity", "Gather", "Add"})
"""What may stand between the last layer and the logits: a name, an order of labels, a bias."""


class View(NamedTuple):
    """Some features (n, d) of an input: tensors of the graph, side by side."""

    name: str
    plain: Sequence[str]
    spread: Sequence[str] = ()
    """Variances, of which the logarithm counts."""


def add_views(model: onnx.ModelProto, inputs: Sequence[ModelInput], *, logits: str) -> list[View]:
    """The views that a model has; their tensors are in its graph afterwards.

    Args:
        model: changed in place. Its axes are fixed but for the first.
        inputs: what it reads, by which steps.
        logits: its answer.
    """
    graph = model.graph
    found = [view for entry in inputs if (view := _of_input(graph, entry))]
    masks = [entry.tensor for entry in inputs if entry.steps[-1].args.get("gives") == "mask"]
    words = [entry.tensor for entry in inputs if entry.steps[-1].args.get("gives") == "ids"]
    for tensor in words:
        if (looked_up := _looked_up(graph, tensor)) is not None:
            mean = with_pooling(
                model, hidden=looked_up, rank=3, mask=masks[0] if masks else None, prefix="outrider_words"
            )
            found.append(View("words", [mean]))
    if (convolution := _first_convolution(graph)) is not None:
        maps, rank = convolution
        found.append(View("first layer", *_moments(graph, maps, "outrider_first", range(2, rank))))
    if (last := _before_the_logits(graph, logits)) is not None:
        found.append(View("last layer", [last]))
    return found


def _of_input(graph: onnx.GraphProto, entry: ModelInput) -> View | None:
    """Level, spread and sharpness of a picture's planes, a sound's bands or its samples; None of tokens and masks."""
    along: tuple[int, ...]
    match entry.steps[0].op, len(entry.shape):
        case "decode_image", 3:
            along = (2, 3)
        case "decode_audio", 1 if entry.steps[-1].op != "sample_mask":
            along = (1,)
        case "decode_audio", 2:  # frames are more than bands, whichever come first
            along = (1 + int(np.argmax(entry.shape)),)
        case _:
            return None
    name = f"outrider_{entry.part}"
    plain, spread = _moments(graph, entry.tensor, name, along)
    return View(
        "input", plain, [*spread, *(_steps(graph, entry.tensor, f"{name}_{axis}", axis, along) for axis in along)]
    )


def _moments(graph: onnx.GraphProto, tensor: str, name: str, along: Sequence[int]) -> tuple[list[str], list[str]]:
    """Mean and variance of each map, (n, maps) each."""
    axes = f"{name}_axes"
    constant(graph, axes, np.asarray(along, np.int64))
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [tensor, axes], [f"{name}_level"], keepdims=1),
            helper.make_node("Sub", [tensor, f"{name}_level"], [f"{name}_away"]),
            helper.make_node("Flatten", [f"{name}_level"], [f"{name}_mean"], axis=1),
        ]
    )
    return [f"{name}_mean"], [_mean_square(graph, f"{name}_away", name, axes)]


def _steps(graph: onnx.GraphProto, tensor: str, name: str, axis: int, along: Sequence[int]) -> str:
    """Mean squared step from one place to the next, (n, maps): noise and blur show here."""
    for key, values in (
        ("one", [1]),
        ("zero", [0]),
        ("end", [np.iinfo(np.int64).max]),
        ("last", [-1]),
        ("axis", [axis]),
    ):
        constant(graph, f"{name}_{key}", np.asarray(values, np.int64))
    constant(graph, f"{name}_axes", np.asarray(along, np.int64))
    later, earlier = [f"{name}_one", f"{name}_end", f"{name}_axis"], [f"{name}_zero", f"{name}_last", f"{name}_axis"]
    graph.node.extend(
        [
            helper.make_node("Slice", [tensor, *later], [f"{name}_later"]),
            helper.make_node("Slice", [tensor, *earlier], [f"{name}_earlier"]),
            helper.make_node("Sub", [f"{name}_later", f"{name}_earlier"], [f"{name}_step"]),
        ]
    )
    return _mean_square(graph, f"{name}_step", name, f"{name}_axes")


def _mean_square(graph: onnx.GraphProto, tensor: str, name: str, axes: str) -> str:
    graph.node.extend(
        [
            helper.make_node("Mul", [tensor, tensor], [f"{name}_squared"]),
            helper.make_node("ReduceMean", [f"{name}_squared", axes], [f"{name}_squares"], keepdims=1),
            helper.make_node("Flatten", [f"{name}_squares"], [f"{name}_variance"], axis=1),
        ]
    )
    return f"{name}_variance"


def _first_convolution(graph: onnx.GraphProto) -> tuple[str, int] | None:
    """The maps of the first convolution, and how many axes they have."""
    ranks = {entry.name: len(entry.dims) for entry in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in ranks:
            return node.output[0], ranks[node.input[1]]
    return None


def _looked_up(graph: onnx.GraphProto, tokens: str) -> str | None:
    """What stands for each token, (n, tokens, d), before its place counts."""
    fixed, same = _constants(graph), {tokens}
    for node in graph.node:
        if node.op_type in ("Identity", "Cast") and node.input[0] in same:
            same.update(node.output)
        if node.op_type == "Gather" and node.input[0] in fixed and node.input[1] in same:
            return str(node.output[0])
    return None


def _before_the_logits(graph: onnx.GraphProto, logits: str) -> str | None:
    """What the last layer with weights reads; None where something else than one layer makes the logits."""
    producer, fixed = {name: node for node in graph.node for name in node.output}, _constants(graph)
    name = logits
    while (node := producer.get(name)) is not None:
        moving = [each for each in node.input if each not in fixed]
        if len(moving) != 1:
            return None
        if node.op_type in ("Gemm", "MatMul"):
            return moving[0] if moving[0] == node.input[0] else None
        if node.op_type not in _BETWEEN:
            return None
        name = moving[0]
    return None


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Tensors that are the same for every input: exporters share weights through ``Identity``."""
    known = {entry.name for entry in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in known):
            known.update(node.output)
    return known
