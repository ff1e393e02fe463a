"""INT8 of an ONNX model, static on real inputs or dynamic. Knows no bundles and no labels.

Static for convolutions: dynamic INT8 makes such a net several times slower. What stays in floating point: the
support distance (its precision matrix magnifies a rounding error), the deferral head, as many of the last layers as the answers need,
and of a transformer all but its layers with weights.
"""

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from outrider_engine.model import scales_by_batch
from outrider_engine.session import OrtSession, load_runtime
from outrider_export.branches import WEIGHTED, left_of, name_nodes, read_inputs_exactly, side_branch, tails
from outrider_export.ranges import Feeds, find_ranges
from outrider_export.recipes import Scheme
from outrider_export.to_onnx import canonical
from outrider_wire.manifest import LeftInFloat

AGREEMENT = 0.99
"""Share of the rows whose answer INT8 must leave as it is."""
_MOST_FLOAT_LAYERS = 3
_Make = Callable[[Sequence[str]], onnx.ModelProto]
_PLAIN = Scheme(ranges="min-max")
_NO_KERNEL = "the quantizer has no 8-bit form of them"
_NORMALISED = frozenset(
    {"LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "RMSNormalization"}
)
_NORMALISED_APART = (
    "each token is normalised by itself, and 8 bits with one range for all of them leave nothing of a small one"
)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An INT8 model, and how much of it is."""

    data: bytes
    float_layers: int
    """Layers with weights, counted from the logits, that were left in floating point."""
    agreement: float
    """Share of the judged rows with the same answer as before."""
    left: Sequence[LeftInFloat] = ()
    """All that was left in floating point, and why."""


def to_int8(
    model: bytes,
    feeds: Sequence[Feeds],
    *,
    scheme: Scheme = _PLAIN,
    logits: str = "logits",
    exact: Sequence[str] = (),
    judged: Sequence[Feeds] = (),
) -> Quantized:
    """INT8 weights, a range a channel, and activations as ``scheme`` says, calibrated on ``feeds``; same inputs, same bytes.

    What leads to an output of ``exact`` and not to the logits stays in floating point. The last layers are left in floating
    point one by one until `AGREEMENT` of the answers stay as they were: a net that multiplies two activations spreads their
    range, and eight bits no longer tell the small ones apart. The answers are those to ``judged``, or to ``feeds`` without:
    the few rows that calibrate ranges say too little of them.
    """
    load_runtime()
    judged = judged or feeds
    before = _answers(model, judged, logits)
    tries: list[Quantized] = []
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = _prepared(model, Path(folder))
        graph = onnx.load(prepared).graph
        aside = side_branch(graph, logits, exact)
        make, wild = _maker(prepared, feeds, scheme)
        masked = {node.name for node in graph.node if wild.intersection((*node.input, *node.output))} - aside
        for tail in tails(graph, aside, _MOST_FLOAT_LAYERS):
            made = make(sorted(aside | masked | set(tail.nodes)))
            read_inputs_exactly(made.graph, aside)
            data = canonical(made)
            reasons: list[tuple[Collection[str], str, str]] = [
                (aside, f"what leads to {' and '.join(exact)} alone", "its sums of squares magnify a rounding error"),
                (masked, "what adds or reads a mask", "its values are too far apart for 8 bits"),
            ]
            if tries:
                stayed = f"with one layer less {tries[-1].agreement:.2%} of the answers stayed, and {AGREEMENT:.0%} are wanted"
                reasons.append((tail.nodes, f"the last layers with weights, {tail.layers} of them", stayed))
            left = left_of(
                graph, made.graph, reasons=reasons, rest=_NORMALISED_APART if _normalises(graph) else _NO_KERNEL
            )
            tries.append(
                Quantized(
                    data=data,
                    float_layers=tail.layers,
                    agreement=float((_answers(data, judged, logits) == before).mean()),
                    left=[*left, *([_BIASES] if scheme.symmetric else [])],
                )
            )
            if tries[-1].agreement >= AGREEMENT:
                break
    return max(tries, key=lambda each: each.agreement)


_BIASES = LeftInFloat(what="biases", why="TensorRT takes no 32-bit integers where a bias is")


def _prepared(model: bytes, folder: Path) -> Path:
    """The model with shapes inferred and batch normalisation folded into the convolutions, every node under a name of its own."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (folder / "model.onnx").write_bytes(model)
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(folder / "model.onnx"), str(prepared), skip_symbolic_shape=True)
    loaded = onnx.load(prepared)
    name_nodes(loaded.graph)
    onnx.save(loaded, prepared)
    return prepared


def _maker(prepared: Path, feeds: Sequence[Feeds], scheme: Scheme) -> tuple[_Make, frozenset[str]]:
    """What quantizes all but the nodes that it is told, and the tensors without a range; ranges are found once."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    target = prepared.with_name("int8.onnx")

    def dynamic(keep_float: Sequence[str]) -> onnx.ModelProto:
        quantize_dynamic(
            str(prepared),
            str(target),
            per_channel=True,
            reduce_range=scheme.reduced,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep_float),
        )
        return onnx.load(target)

    if scheme.ranges == "dynamic":
        return dynamic, frozenset()
    known = {*QLinearOpsRegistry, *QDQRegistry}
    operators = sorted(known & WEIGHTED if _normalises(onnx.load(prepared).graph) else known)
    found = find_ranges(prepared, feeds, scheme.ranges, operators=operators)
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}

    def static(keep_float: Sequence[str]) -> onnx.ModelProto:
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(prepared),
            per_channel=True,
            reduce_range=scheme.reduced,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if scheme.symmetric else QuantType.QUInt8,
            tensors_range=found.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(keep_float),
            op_types_to_quantize=operators,
            extra_options=symmetric if scheme.symmetric else {},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target), False)
        return onnx.load(target)

    return static, found.wild


def _normalises(graph: onnx.GraphProto) -> bool:
    """Whether a model is of the transformers' kind: what its layers with weights add up is normalised token by token."""
    return any(node.op_type in _NORMALISED for node in graph.node)


def _answers(model: bytes, feeds: Sequence[Feeds], logits: str) -> NDArray[np.int64]:
    session = OrtSession(model)
    if scales_by_batch(model):  # as a device asks it: the rows beside it would change what it says of one
        feeds = [
            {name: row[None] for name, row in zip(each, rows, strict=True)}
            for each in feeds
            for rows in zip(*each.values(), strict=True)
        ]
    return np.concatenate([session.run(each)[logits].argmax(1) for each in feeds])


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer tells the root logger of steps that have been taken."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
