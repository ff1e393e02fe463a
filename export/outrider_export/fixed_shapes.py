"""Models of fixed shapes, for accelerators that compile no others. Knows no bundles."""

from collections.abc import Mapping, Sequence

import onnx

from outrider_engine.walk import TensorFact, walk
from outrider_export.to_onnx import canonical
from outrider_wire.errors import OperatorConfigError

FIXED_SHAPES: Mapping[str, str] = {
    "QNNExecutionProvider": "Qualcomm's compiler",
    "VitisAIExecutionProvider": "AMD's compiler",
    "RknpuExecutionProvider": "Rockchip's compiler",
    "NnapiExecutionProvider": "Android's NNAPI",
    "CoreMLExecutionProvider": "Core ML's neural engine",
}
"""Provider → what it hands graphs to that takes no axis of unknown size
(https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html)."""


def needs_fixed_shapes(providers: Sequence[str]) -> str:
    """Who of these needs fixed shapes, in words; '' when nobody does."""
    return next((f"{name} ({FIXED_SHAPES[name]})" for name in providers if name in FIXED_SHAPES), "")


def one_by_one(model: bytes, *, wanted_by: str) -> bytes:
    """The same model for batches of one, so that no axis is of unknown size; the same bytes give the same.

    Raises:
        OperatorConfigError: another axis than the first of an input is of unknown size; names it and ``wanted_by``.
    """
    for fact in walk(model).inputs:
        _check_axes(fact, wanted_by)
    loaded = onnx.load_from_string(model)
    for entry in (*loaded.graph.input, *loaded.graph.output):
        if entry.type.tensor_type.shape.dim and not entry.type.tensor_type.shape.dim[0].dim_value:
            entry.type.tensor_type.shape.dim[0].dim_value = 1
    return canonical(loaded)


def _check_axes(fact: TensorFact, wanted_by: str) -> None:
    for axis, size in enumerate(fact.shape):
        if axis and not isinstance(size, int):
            raise OperatorConfigError(
                f"axis {axis}{f' ({size})' if size else ''} of input {fact.name!r} is of any size, and {wanted_by} needs fixed ones",
                reason="dynamic_shape",
                fix=f"export the model with a fixed size for axis {axis} of {fact.name!r}, or choose another profile",
            )
