"""Static INT8 of an ONNX model, calibrated on real inputs. Knows no bundles and no labels.

Static and not dynamic: dynamic INT8 makes a convolutional net several times slower. What stays in floating point: the
support distance (its precision matrix magnifies a rounding error), the deferral head, and as many of the last layers as the answers need.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from outrider_engine.session import OrtSession, load_runtime
from outrider_export.to_onnx import canonical

Feeds = dict[str, NDArray[Any]]

AGREEMENT = 0.99
"""Share of the rows whose answer INT8 must leave as it is."""
_MOST_FLOAT_LAYERS = 3
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An INT8 model, and how much of it is."""

    data: bytes
    float_layers: int
    """Layers with weights, counted from the logits, that were left in floating point."""
    agreement: float
    """Share of the judged rows with the same answer as before."""


class _Reader:
    """What the quantizer asks for feeds."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def static_int8(
    model: bytes,
    feeds: Sequence[Feeds],
    *,
    logits: str = "logits",
    exact: Sequence[str] = (),
    judged: Sequence[Feeds] = (),
) -> Quantized:
    """INT8 weights (per channel, 7 bits) and activations in QDQ form, calibrated on ``feeds``; same inputs, same bytes.

    Weights use 7 of their 8 bits because x86 without VNNI saturates sums of products otherwise, and a certificate should
    not hold on one processor and fail on the next
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8).
    What leads to an output of ``exact`` and not to the logits stays in floating point. The last layers are left in floating
    point one by one until `AGREEMENT` of the answers stay as they were: a net that multiplies two activations spreads their
    range, and eight bits no longer tell the small ones apart. The answers are those to ``judged``, or to ``feeds`` without:
    the few rows that calibrate ranges say too little of them.
    """
    load_runtime()
    judged = judged or feeds
    before = _answers(model, judged, logits)
    tries: list[Quantized] = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepared(model, Path(folder))
        graph = onnx.load(prepared).graph
        side_branch = set().union(*(_ancestors(graph, name) for name in exact)) - _ancestors(graph, logits)
        for tail in _tails(graph, side_branch):
            data = _quantized(prepared, feeds, sorted(side_branch | set(tail.nodes)))
            agreement = float((_answers(data, judged, logits) == before).mean())
            tries.append(Quantized(data=data, float_layers=tail.layers, agreement=agreement))
            if agreement >= AGREEMENT:
                break
    return max(tries, key=lambda each: each.agreement)


@dataclass(frozen=True)
class _Tail:
    layers: int
    nodes: Sequence[str]


def _tails(graph: onnx.GraphProto, side_branch: set[str]) -> list[_Tail]:
    """What follows the last, the second last, … layer with weights; an empty tail first."""
    main = [node for node in graph.node if node.name not in side_branch]
    weighted = [place for place, node in enumerate(main) if node.op_type in _WEIGHTED]
    tails = [_Tail(0, ())]
    for layers, place in enumerate(reversed(weighted[1:][-_MOST_FLOAT_LAYERS:]), 1):
        before = max(other for other in weighted if other < place)
        tails.append(_Tail(layers, [node.name for node in main[before + 1 :]]))
    return tails


def _prepared(model: bytes, folder: Path) -> Path:
    """The model with shapes inferred and batch normalisation folded into the convolutions."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (folder / "model.onnx").write_bytes(model)
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(folder / "model.onnx"), str(prepared), skip_symbolic_shape=True)
    return prepared


def _quantized(prepared: Path, feeds: Sequence[Feeds], keep_float: Sequence[str]) -> bytes:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    target = prepared.with_name("int8.onnx")
    quantize_static(
        str(prepared),
        str(target),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        nodes_to_exclude=list(keep_float),
    )
    return canonical(onnx.load(target))


def _answers(model: bytes, feeds: Sequence[Feeds], logits: str) -> NDArray[np.int64]:
    session = OrtSession(model)
    return np.concatenate([session.run(each)[logits].argmax(1) for each in feeds])


def _ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
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
