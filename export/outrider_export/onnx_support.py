"""A support distance for a classifier that came as ONNX: fitted on what it shows of known inputs, added to its graph.

As in `outrider_export.support` the farthest of several Mahalanobis distances counts. The features of a large model are more than the
rows: each view is taken on its main directions and, as one number more, on what these leave (the residual of Wang et al. 2022,
arXiv 2203.10807). Half of the rows find the directions, the other half where known inputs lie on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from outrider_engine.session import OrtSession
from outrider_export.branches import name_nodes
from outrider_export.data import Tensors
from outrider_export.graphs import BATCH, constant
from outrider_export.parity import run_rows
from outrider_export.support import FEWEST_ROWS, Known, fit_known
from outrider_export.to_onnx import canonical
from outrider_export.views import View, add_views
from outrider_wire.manifest import ModelInput

SUPPORT = "support"
LEAST_ROWS = 2 * FEWEST_ROWS
MOST_ROWS = 4_000
_DIRECTIONS = 32
_ROWS_A_DIRECTION = 8
_NOTHING = 0.1
"""Of the largest singular value: below it a direction is rounding."""
_NOISE = 0.1
"""In deviations of a feature: what INT8 may do to it."""
_LEFT = 1e-2
"""Least mean square of what the directions leave, in variances: below it that is rounding too."""
_FLOOR = 1e-3
"""Of a variance, as a share of what is usual within and among inputs: bounds the logarithm of a flat map, and INT8's noise in it."""

Features = NDArray[np.float64]


class Watched(NamedTuple):
    """What came of it."""

    says: str
    """For the manifest: what the distance is taken on, or why there is none."""
    has: bool


def with_support(model: bytes, inputs: Sequence[ModelInput], rows: Tensors) -> tuple[bytes, Watched]:
    """The model with an output `SUPPORT` (n,), the distance in units that all but a share of the known inputs stay below.

    Args:
        model: fp32, every axis but the first of a fixed size; its first output is the logits. As it is where it has the output already.
        inputs: what it reads.
        rows: known inputs, labelled or not; at most `MOST_ROWS` are looked at.
    """
    loaded = onnx.load_model_from_string(model)
    outputs = [output.name for output in loaded.graph.output]
    if SUPPORT in outputs:
        return model, Watched("its own", has=True)
    if len(rows) < LEAST_ROWS:
        says = f"no support distance: {len(rows)} inputs do not tell what the model knows, {LEAST_ROWS} do: give --calibrate DIR"
        return model, Watched(says, has=False)
    views = add_views(loaded, inputs, logits=outputs[0])
    if not views:
        return model, Watched("no support distance: the model shows nothing that one could be taken on", has=False)
    shown = _shown(loaded, views, rows.take(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(np.int64)))
    fitted = [
        _fitted(view, [shown[name] for name in view.plain], [shown[name] for name in view.spread]) for view in views
    ]
    known = fit_known([each.features for each in fitted], noise=_NOISE)
    squared = [
        _squared(loaded.graph, each, place, where)
        for place, (each, where) in enumerate(zip(fitted, known, strict=True))
    ]
    _farthest(loaded.graph, squared)
    name_nodes(loaded.graph)
    names = " and ".join(view.name for view in views)
    return canonical(loaded), Watched(f"distances on {names}, fitted on {len(rows)} inputs", has=True)


def _shown(model: onnx.ModelProto, views: Sequence[View], rows: Tensors) -> dict[str, Features]:
    """What the views hold of the rows, (n, d) each."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in dict.fromkeys(name for view in views for name in (*view.plain, *view.spread)):
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, None]))
    found = run_rows(OrtSession(canonical(copy)), rows)
    return {name: values.astype(np.float64) for name, values in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """How a view becomes a few numbers."""

    view: View
    floors: Sequence[Features]
    """(d,) added to each variance."""
    mean: Features
    spread: Features
    axes: Features
    """(d, k), orthonormal."""
    least: float
    """Added to what the axes leave; 0: nothing, since they are all there are."""
    features: Features
    """(n, k) or (n, k + 1) of the rows that did not find the axes."""


def _fitted(view: View, plain: Sequence[Features], variances: Sequence[Features]) -> _Fitted:
    among = float(plain[0].var(0).mean())
    floors = [_FLOOR * (each.mean(0) + each.mean() + among) + 1e-12 for each in variances]
    whole = np.concatenate([*plain, *(np.log(each + floor) for each, floor in zip(variances, floors, strict=True))], 1)
    finders, rest = whole[::2], whole[1::2]
    mean = finders.mean(0)
    spread = np.maximum(finders.std(0), 0.1 * np.sqrt(finders.var(0).mean()) + 1e-6)
    axes = _main_directions((finders - mean) / spread, max(4, min(_DIRECTIONS, len(rest) // _ROWS_A_DIRECTION)))
    away = (rest - mean) / spread
    along = away @ axes
    left = np.square(away - along @ axes.T).mean(1)
    least = 0.0 if axes.shape[0] == axes.shape[1] else float(_FLOOR * left.mean()) + _LEFT
    features = np.concatenate([along, np.log(left + least)[:, None]], 1) if least else along
    return _Fitted(view=view, floors=floors, mean=mean, spread=spread, axes=axes, least=least, features=features)


def _main_directions(scaled: Features, most: int) -> Features:
    """(d, k) at most ``most`` directions, those along which nothing varied left out."""
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    k = min(most, int((values >= _NOTHING * values[0]).sum()))
    return np.asarray(directions[:k].T, np.float64)


def _squared(graph: onnx.GraphProto, fitted: _Fitted, place: int, known: Known) -> str:
    """Adds a view's squared distance in its unit, (n, 1); gives its name."""
    name = f"outrider_view_{place}"
    add = _Adder(graph, name)
    parts = list(fitted.view.plain)
    for tensor, floor in zip(fitted.view.spread, fitted.floors, strict=True):
        parts.append(add("Log", add("Add", tensor, floor)))
    whole = add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    away = add("Div", add("Sub", whole, fitted.mean), fitted.spread)
    along = add("MatMul", away, fitted.axes)
    if fitted.least:
        left = add("Sub", away, add("MatMul", along, fitted.axes.T))
        mean = add("ReduceMean", add("Mul", left, left), np.asarray([1], np.int64), keepdims=1)
        along = add("Concat", along, add("Log", add("Add", mean, np.asarray([fitted.least]))), axis=1)
    from_mean = add("Sub", along, known.gaussian.mean)
    in_units = add("MatMul", from_mean, known.factor)
    return add("ReduceSum", add("Mul", in_units, in_units), np.asarray([1], np.int64), keepdims=1)


def _farthest(graph: onnx.GraphProto, squared: Sequence[str]) -> None:
    add = _Adder(graph, "outrider_support")
    both = add("Concat", *squared, axis=1) if len(squared) > 1 else squared[0]
    farthest = add("ReduceMax", both, np.asarray([1], np.int64), keepdims=0)
    graph.node.append(helper.make_node("Sqrt", [add("Max", farthest, np.asarray(0.0))], [SUPPORT]))
    graph.output.append(helper.make_tensor_value_info(SUPPORT, TensorProto.FLOAT, [BATCH]))


class _Adder:
    """Adds one node after the other; arrays among what they read become constants."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self._graph, self._name, self._added = graph, name, 0

    def __call__(self, op: str, *reads: str | NDArray[np.generic], **settings: Any) -> str:
        self._added += 1
        name = f"{self._name}_{self._added}"
        given = [self._named(each, f"{name}_{place}") for place, each in enumerate(reads)]
        self._graph.node.append(helper.make_node(op, given, [name], **settings))
        return name

    def _named(self, value: str | NDArray[np.generic], name: str) -> str:
        if isinstance(value, str):
            return value
        constant(self._graph, name, value if value.dtype == np.int64 else value.astype(np.float32))
        return name
