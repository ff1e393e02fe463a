"""Weights in 8 bits where the arithmetic stays in floating point, and the grids of a file that is 8-bit already. Judges nothing.

A layer that is left in floating point, because 8 bits of its activations lose too much, need not hold its weights in 32: each channel
is as far from its 8-bit form as in the layers that compute in 8 bits, and the file is a quarter of the size there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from outrider_export.branches import WEIGHTED

_FEWEST = 256
"""Numbers of a tensor below which 8 bits save less than the node that turns them back costs."""
_WIDEST, _NARROWEST = 127, 64
_COARSEST = 0.7
"""A kept grid of weights is used up to this share at least; a finer one would lose less."""
_CUT = 0.05
"""Most of a kept grid's range that an activation may go beyond it."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where 8-bit numbers lie: scale · (code − zero point)."""

    scale: NDArray[np.float32]
    """() or (channels,)"""
    zero_point: NDArray[np.int64]
    """Of the scale's shape."""
    axis: int = 0
    """Of the channels."""
    signed: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number of a grid of one scale."""
        codes = (-_WIDEST, _WIDEST) if self.signed else (0, 255)
        least, largest = (float(self.scale) * (code - int(self.zero_point)) for code in codes)
        return least, largest


@dataclass(frozen=True, kw_only=True)
class EightBit:
    """What a quantized file has chosen."""

    weights: Mapping[str, Grid]
    """Tensor → a grid a channel."""
    activations: Mapping[str, Grid]
    floating: frozenset[str]
    """Names of layers with weights that compute in floating point."""


def chosen_in(model: bytes) -> EightBit:
    """The grids and floating-point layers of an ONNX file, by the names that they had before it was quantized."""
    graph = onnx.load_from_string(model).graph
    constants = {entry.name: entry for entry in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    weights, activations = {}, {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        coded, scale, *point = node.input
        if not constants.keys() >= {scale, *point}:
            continue  # found as it runs
        points = numpy_helper.to_array(constants[point[0]]) if point else np.zeros(constants[scale].dims, np.int8)
        grid = Grid(
            scale=numpy_helper.to_array(constants[scale]),
            zero_point=points.astype(np.int64),
            axis=next((int(each.i) for each in node.attribute if each.name == "axis"), 1),
            signed=points.dtype == np.int8,
        )
        if coded in constants and constants[coded].data_type == onnx.TensorProto.INT8:
            weights[coded.removesuffix("_quantized")] = grid
        elif (quantizer := producer.get(coded)) is not None and quantizer.op_type == "QuantizeLinear":
            activations[quantizer.input[0]] = grid
    floating = {node.name for node in graph.node if node.op_type in WEIGHTED and not _reads_8_bits(node, producer)}
    return EightBit(weights=weights, activations=activations, floating=frozenset(floating))


def _reads_8_bits(node: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto]) -> bool:
    before = producer.get(node.input[0])
    return before is not None and before.op_type == "DequantizeLinear"


def most(*, reduced: bool) -> int:
    """The largest code of a weight."""
    return _NARROWEST if reduced else _WIDEST


def weight_grid(values: NDArray[np.float32], axis: int, top: int, kept: Grid | None = None) -> Grid:
    """A symmetric grid for each channel of ``values``: the kept one where it still fits, else from the largest value."""
    channels = np.abs(np.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1).max(1)
    scale = np.where(channels > 0, channels / top, 1.0).astype(np.float32)
    if kept is not None and kept.axis == axis and kept.scale.shape == scale.shape and not kept.zero_point.any():
        used = channels / np.maximum(kept.scale, np.finfo(np.float32).tiny)
        fits = (used < top + 0.5) & ((used >= _COARSEST * top) | (channels == 0))
        scale = np.where(fits, kept.scale, scale)
    return Grid(scale=scale, zero_point=np.zeros(scale.shape, np.int64), axis=axis)


def still_fits(grid: Grid, low: float, high: float) -> bool:
    """Whether an activation whose values lie between ``low`` and ``high`` may keep its grid: a twentieth may be cut off."""
    if grid.scale.shape != () or not np.isfinite([low, high]).all():
        return False
    least, largest = grid.ends
    slack = _CUT * (largest - least)
    inside = min(low, 0.0) >= least - slack and max(high, 0.0) <= largest + slack
    return inside and max(high - low, high, -low) >= (largest - least) / 2


def channel_axis(node: onnx.NodeProto, values: NDArray[np.float32]) -> int:
    """The axis of a layer's weights along which its outputs lie."""
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else values.ndim - 1


def _input_axis(node: onnx.NodeProto, values: NDArray[np.float32]) -> int:
    """The axis of a layer's weights along which its inputs lie; of a convolution the outputs', whose kernels have units in common."""
    outputs = channel_axis(node, values)
    return outputs if node.op_type == "Conv" else 2 * values.ndim - 3 - outputs


def hold_in_8_bits(
    graph: onnx.GraphProto, nodes: Collection[str], *, rows: Collection[str], top: int, kept: Mapping[str, Grid]
) -> int:
    """Holds the weights of those layers in 8 bits; their arithmetic stays as it is. Gives how many tensors it changed.

    Args:
        graph: changed in place.
        nodes: names of layers; those without large constant weights are left alone.
        rows: of these, layers whose *inputs* have units of their own and so a scale each, with all 8 bits.
        top: the largest code of the others.
        kept: grids to be kept where they fit.
    """
    constants = {entry.name: entry for entry in graph.initializer}
    held: dict[str, str] = {}
    backs = []
    for node in graph.node:
        if node.name not in nodes or node.op_type not in WEIGHTED or node.input[1] not in constants:
            continue
        name = node.input[1]
        entry = constants[name]
        if name not in held:
            if entry.data_type != onnx.TensorProto.FLOAT or int(np.prod(entry.dims)) < _FEWEST:
                continue
            values = numpy_helper.to_array(entry)
            by_row = node.name in rows
            axis = (_input_axis if by_row else channel_axis)(node, values)
            backs.append(_replaced(graph, entry, weight_grid(values, axis, _WIDEST if by_row else top, kept.get(name))))
            held[name] = backs[-1].output[0]
        node.input[1] = held[name]
    for place, back in enumerate(backs):
        graph.node.insert(place, back)
    read = {name for node in graph.node for name in node.input}
    for name in held:
        if name not in read:
            graph.initializer.remove(constants[name])
    return len(held)


def _replaced(graph: onnx.GraphProto, entry: onnx.TensorProto, grid: Grid) -> onnx.NodeProto:
    """Adds codes and scales; gives the node that turns them back. Names are those that the quantizer gives."""
    values = numpy_helper.to_array(entry)
    shape = [-1 if side == grid.axis else 1 for side in range(values.ndim)]
    codes = np.rint(values / grid.scale.reshape(shape)).clip(-_WIDEST, _WIDEST).astype(np.int8)
    name = entry.name
    graph.initializer.append(numpy_helper.from_array(codes, f"{name}_quantized"))
    graph.initializer.append(numpy_helper.from_array(grid.scale, f"{name}_scale"))
    return helper.make_node(
        "DequantizeLinear",
        [f"{name}_quantized", f"{name}_scale"],
        [f"{name}_DequantizeLinear_Output"],
        name=f"{name}_DequantizeLinear",
        axis=grid.axis,
    )
