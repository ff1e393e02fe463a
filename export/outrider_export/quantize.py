"""INT8 of an ONNX model, static on real inputs or dynamic. Knows no bundles and no labels.

Static for convolutions: dynamic INT8 makes such a net several times slower. What stays in floating point: the
support distance (it magnifies a rounding error), the deferral head, as many of the last layers as the answers need,
and of a transformer all but its layers with weights.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter

from outrider_engine.model import scales_by_batch
from outrider_engine.session import OrtSession, load_runtime
from outrider_export.branches import WEIGHTED, Tail, left_of, name_nodes, read_inputs_exactly, side_branch, tails
from outrider_export.eight_bits import (
    EightBit,
    channel_axis,
    chosen_in,
    hold_in_8_bits,
    most,
    still_fits,
    weight_grid,
)
from outrider_export.ranges import Feeds, find_ranges
from outrider_export.recipes import Scheme
from outrider_export.to_onnx import canonical
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import LeftInFloat

AGREEMENT = 0.99
"""Share of the rows whose answer INT8 must leave as it is."""
KEPT_AGREEMENT = 0.985
"""The same where the parent's choices are kept: half-way to what is out of tolerance, for a delta that is a fraction."""
_MOST_FLOAT_LAYERS = 3
_BY_CHANNEL = 13
"""The opset since which ``DequantizeLinear`` has an axis."""
_PLAIN = Scheme(ranges="min-max")
_HELD = "; its weights are held in 8 bits"
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
    as_parent: bool = False
    """Whether floating-point layers, scales and zero points are the parent's, where they fit."""


def to_int8(
    model: bytes,
    feeds: Sequence[Feeds],
    *,
    scheme: Scheme = _PLAIN,
    logits: str = "logits",
    exact: Sequence[str] = (),
    judged: Sequence[Feeds] = (),
    parent: bytes | None = None,
) -> Quantized:
    """INT8 weights, a range a channel, and activations as ``scheme`` says, calibrated on ``feeds``; same inputs, same bytes.

    What leads to an output of ``exact`` and not to the logits stays in floating point. The last layers are left in floating
    point one by one until `AGREEMENT` of the answers stay as they were: a net that multiplies two activations spreads their
    range, and eight bits no longer tell the small ones apart. The answers are those to ``judged``, or to ``feeds`` without:
    the few rows that calibrate ranges say too little of them. Layers that compute in floating point hold their weights in 8 bits all
    the same, but for `Scheme.symmetric`.

    ``parent`` is the release that this one takes the place of, quantized by the same scheme: its floating-point layers, scales and
    zero points are kept where they fit, if `KEPT_AGREEMENT` of the answers stay so. What did not change then has the same bytes, and no
    delta has to carry it.
    """
    load_runtime()
    judged = judged or feeds
    before = _answers(model, judged, logits)
    tries: list[Quantized] = []
    with tempfile.TemporaryDirectory() as folder, _quiet():
        made = _Making(_prepared(model, Path(folder)), feeds, scheme, logits, exact)
        for attempt in made.attempts(parent):
            stayed = (
                f"with one layer less {tries[-1].agreement:.2%} of the answers stayed, and {AGREEMENT:.0%} are wanted"
                if tries
                else ""
            )
            data, left = made.one(attempt, why=_AS_BEFORE if attempt.kept else stayed)
            agreement = float((_answers(data, judged, logits) == before).mean())
            kept = attempt.kept is not None
            tries.append(
                Quantized(data=data, float_layers=attempt.tail.layers, agreement=agreement, left=left, as_parent=kept)
            )
            if agreement >= (KEPT_AGREEMENT if kept else AGREEMENT):
                return tries[-1]
    return max(tries, key=lambda each: each.agreement)


_AS_BEFORE = "the release that this one takes the place of left them, and a delta carries less so"
_BIASES = LeftInFloat(what="biases", why="TensorRT takes no 32-bit integers where a bias is")


def _prepared(model: bytes, folder: Path) -> Path:
    """The model with shapes inferred and batch normalisation folded into the convolutions, every node under a name of its own."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (folder / "model.onnx").write_bytes(_by_channel(model))
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(folder / "model.onnx"), str(prepared), skip_symbolic_shape=True)
    loaded = onnx.load(prepared)
    name_nodes(loaded.graph)
    onnx.save(loaded, prepared)
    return prepared


def _by_channel(model: bytes) -> bytes:
    """The model in an opset that knows a scale a channel.

    Raises:
        OperatorConfigError: an operator of an older opset has no form there.
    """
    loaded = onnx.load_model_from_string(model)
    if all(entry.version >= _BY_CHANNEL for entry in loaded.opset_import if entry.domain in {"", "ai.onnx"}):
        return model
    try:
        return bytes(version_converter.convert_version(loaded, _BY_CHANNEL).SerializeToString())
    except (RuntimeError, version_converter.ConvertError) as error:
        raise OperatorConfigError(
            f"the ONNX file cannot be brought to opset {_BY_CHANNEL}, which INT8 needs: it has an operator that is not there",
            reason="unsupported_opset",
            fix=f"export it with opset {_BY_CHANNEL} or a newer one, or leave INT8 out of its variants",
        ) from error


class _Attempt(NamedTuple):
    """What is left in floating point, and whose choices are kept."""

    tail: Tail
    kept: EightBit | None = None


class _Making:
    """Quantizes all but the nodes that it is told; ranges are found once."""

    def __init__(
        self, prepared: Path, feeds: Sequence[Feeds], scheme: Scheme, logits: str, exact: Sequence[str]
    ) -> None:
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        self.prepared, self.scheme, self.exact = prepared, scheme, exact
        self.target = prepared.with_name("int8.onnx")
        self.graph = onnx.load(prepared).graph
        self.aside = side_branch(self.graph, logits, exact)
        known = {*QLinearOpsRegistry, *QDQRegistry}
        self.operators = sorted(known & WEIGHTED if _normalises(self.graph) else known)
        self.ranges: Any = None
        wild: frozenset[str] = frozenset()
        if scheme.ranges != "dynamic":
            self.ranges, wild = find_ranges(prepared, feeds, scheme.ranges, operators=self.operators)
        self.masked = {node.name for node in self.graph.node if wild.intersection((*node.input, *node.output))}
        self.masked -= self.aside

    def attempts(self, parent: bytes | None) -> Iterator[_Attempt]:
        """The parent's choices first; then ever more layers at the end in floating point, with grids of their own."""
        found = tails(self.graph, self.aside, _MOST_FLOAT_LAYERS)
        if parent is not None:
            kept = chosen_in(parent)
            weighted = {node.name for node in self.graph.node if node.op_type in WEIGHTED}
            yield _Attempt([tail for tail in found if weighted.intersection(tail.nodes) <= kept.floating][-1], kept)
        for tail in found:
            yield _Attempt(tail)

    def one(self, attempt: _Attempt, why: str) -> tuple[bytes, list[LeftInFloat]]:
        """The file, and what of it is in floating point; ``why`` the last layers are."""
        tail = attempt.tail
        floating = sorted(self.aside | self.masked | set(tail.nodes))
        made = self._dynamic(floating) if self.scheme.ranges == "dynamic" else self._static(floating, attempt.kept)
        read_inputs_exactly(made.graph, self.aside)
        held = self._held(made.graph, tail, attempt.kept)
        reasons: list[tuple[Collection[str], str, str]] = [
            (
                self.aside,
                f"what leads to {' and '.join(self.exact)} alone",
                f"its sums of squares magnify a rounding error{held}",
            ),
            (self.masked, "what adds or reads a mask", "its values are too far apart for 8 bits"),
        ]
        if tail.layers:
            reasons.append((tail.nodes, f"the last layers with weights, {tail.layers} of them", f"{why}{held}"))
        rest = _NORMALISED_APART if _normalises(self.graph) else _NO_KERNEL
        left = left_of(self.graph, made.graph, reasons=reasons, rest=rest)
        return canonical(made), [*left, *([_BIASES] if self.scheme.symmetric else [])]

    def _held(self, graph: onnx.GraphProto, tail: Tail, kept: EightBit | None) -> str:
        if self.scheme.symmetric:
            return ""
        nodes = self.aside | set(tail.nodes)
        grids = kept.weights if kept else {}
        changed = hold_in_8_bits(graph, nodes, rows=self.aside, top=most(reduced=self.scheme.reduced), kept=grids)
        return _HELD if changed else ""

    def _dynamic(self, keep_float: Sequence[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            str(self.prepared),
            str(self.target),
            per_channel=True,
            reduce_range=self.scheme.reduced,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep_float),
        )
        return onnx.load(self.target)

    def _static(self, keep_float: Sequence[str], kept: EightBit | None) -> onnx.ModelProto:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        options: dict[str, Any] = {"TensorQuantOverrides": self._overrides(kept)} if kept else {}
        if self.scheme.symmetric:
            options |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(self.prepared),
            per_channel=True,
            reduce_range=self.scheme.reduced,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if self.scheme.symmetric else QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(keep_float),
            op_types_to_quantize=self.operators,
            extra_options=options,
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(self.target), False)
        return onnx.load(self.target)

    def _overrides(self, kept: EightBit) -> dict[str, list[dict[str, Any]]]:
        """The parent's grids that fit, as the quantizer takes them."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name in self.ranges.keys() & kept.activations.keys():
            grid = kept.activations[name]
            if still_fits(grid, *(np.asarray(side).item() for side in self.ranges[name].range_value)):
                found[name] = [{"scale": grid.scale, "zero_point": grid.zero_point}]
        constants = {entry.name: entry for entry in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type not in WEIGHTED or node.input[1] not in constants.keys() & kept.weights.keys():
                continue
            values = numpy_helper.to_array(constants[node.input[1]])
            axis, top = channel_axis(node, values), most(reduced=self.scheme.reduced)
            grid = weight_grid(values, axis, top, kept.weights[node.input[1]])
            found[node.input[1]] = [{"axis": axis, "scale": scale, "zero_point": 0} for scale in grid.scale]
        return dict(sorted(found.items()))


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
