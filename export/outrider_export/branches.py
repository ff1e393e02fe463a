"""The nodes of an ONNX graph that must keep their floating point, and those that did. Changes no graph."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from outrider_wire.manifest import LeftInFloat

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_MOVES = frozenset(
    {
        "Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Range", "Reshape", "Shape",
        "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that only move numbers."""
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"}
)  # fmt: skip


@dataclass(frozen=True)
class Tail:
    """The end of the way to the logits."""

    layers: int
    """Layers with weights in it."""
    nodes: Sequence[str]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Gives a name to every node that has none, or another's: what follows tells nodes by name."""
    taken: set[str] = set()
    for place, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_node_{place}"
        taken.add(node.name)


def ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    """Names of the nodes that ``output`` depends on."""
    producer = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    open_ends = [output]
    while open_ends:
        node = producer.get(open_ends.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            open_ends.extend(node.input)
    return found


def side_branch(graph: onnx.GraphProto, logits: str, exact: Sequence[str]) -> set[str]:
    """What leads to an output of ``exact`` and not to the logits."""
    return set().union(*(ancestors(graph, name) for name in exact)) - ancestors(graph, logits)


def tails(graph: onnx.GraphProto, aside: Collection[str], most: int) -> list[Tail]:
    """What follows the last, the second last, … of ``most`` layers with weights on the way to the logits; an empty tail first."""
    main = [node for node in graph.node if node.name not in aside]
    weighted = [place for place, node in enumerate(main) if node.op_type in WEIGHTED]
    found = [Tail(0, ())]
    for layers, place in enumerate(reversed(weighted[1:][-most:]), 1):
        before = max(other for other in weighted if other < place)
        found.append(Tail(layers, [node.name for node in main[before + 1 :]]))
    return found


def read_inputs_exactly(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Lets those nodes read the graph's inputs as they came, not their 8-bit form: the quantizer hands that to every reader."""
    producer = {node.output[0]: node for node in graph.node}
    inputs = {entry.name for entry in graph.input}
    for node in graph.node:
        if node.name not in names:
            continue
        for place, name in enumerate(node.input):
            back = producer.get(name)
            there = producer.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
            if there is not None and there.op_type == "QuantizeLinear" and there.input[0] in inputs:
                node.input[place] = there.input[0]


def operators(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, int]:
    """How often each operator stands among those nodes, those that compute nothing aside."""
    return dict(
        sorted(
            Counter(node.op_type for node in graph.node if node.name in names and node.op_type not in _MOVES).items()
        )
    )


def left_of(
    before: onnx.GraphProto, after: onnx.GraphProto, *, reasons: Sequence[tuple[Collection[str], str, str]], rest: str
) -> list[LeftInFloat]:
    """What of ``before`` is still floating point in its quantized form ``after``.

    Args:
        before: the graph that was quantized.
        after: what came of it.
        reasons: (nodes that were left, what they are, why).
        rest: why any others were that read nothing of 8 bits.
    """
    eight_bit = {name for node in after.node if node.op_type == "DequantizeLinear" for name in node.output}
    original = {node.name: node.op_type for node in before.node}
    still = {node.name: node for node in after.node if original.get(node.name) == node.op_type}
    found, told = [], set[str]()
    for nodes, what, why in reasons:
        own = (still.keys() & set(nodes)) - told
        told |= own
        if counted := operators(before, own):
            found.append(LeftInFloat(what=what, why=why, operators=counted))
    floating = {
        name
        for name, node in still.items()
        if node.op_type not in _QUANTIZED and not eight_bit.intersection(node.input)
    } - told
    if counted := operators(before, floating):
        found.append(LeftInFloat(what="operators on the way to the logits", why=rest, operators=counted))
    return found
