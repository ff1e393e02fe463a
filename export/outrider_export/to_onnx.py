"""A torch module becomes ONNX bytes: dynamic batch, one opset, nothing of the machine that made it. Knows no bundles."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn

from outrider_export.operator_support import untranslated
from outrider_wire.errors import BundleMismatchError, OutriderError
from outrider_wire.manifest import ModelInput
from outrider_wire.steps import is_whole

OPSET = 20
IR_VERSION = 10
"""What ONNX Runtime 1.20, the oldest that a device may run, reads."""


class _Positional(nn.Module):
    """A module under one signature, whatever its own is: the exporter names shapes by signature."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        result: Tensor | tuple[Tensor, ...] = self.module(*tensors)
        return result


def export_onnx(module: nn.Module, inputs: Sequence[ModelInput], outputs: Sequence[str]) -> bytes:
    """ONNX bytes of ``module`` in evaluation mode; the same weights give the same bytes.

    ``inputs`` name the tensors in the order of ``forward``'s arguments, ``outputs`` what it returns; both get a first axis
    ``batch``. The bytes hold every weight, and no file names, stack traces or versions.

    Raises:
        OperatorConfigError: the module does something that ONNX has no operator for; names it.
        BundleMismatchError: torch cannot trace or export the module for another reason.
    """
    batch = torch.export.Dim("batch")
    # Two rows: one would be taken for a constant.
    examples = tuple(
        torch.zeros(2, *entry.shape, dtype=torch.int64 if is_whole(entry) else torch.float32) for entry in inputs
    )
    with _quiet():
        try:
            program = torch.onnx.export(
                _Positional(module).eval(),
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=[entry.tensor for entry in inputs],
                output_names=list(outputs),
                dynamic_shapes={"tensors": tuple({0: batch} for _ in inputs)},
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _not_exported(error) from error
    if program is None:
        raise BundleMismatchError("torch exported nothing", reason="export_failed", fix="see its own report above")
    _check_batch(program.model_proto.graph)
    return canonical(program.model_proto)


def _check_batch(graph: onnx.GraphProto) -> None:
    for entry in graph.input:
        if entry.type.tensor_type.shape.dim[0].dim_value:
            raise BundleMismatchError(
                f"the module takes the number of rows in {entry.name!r} for a constant",
                reason="fixed_batch",
                fix="in forward(), take it from shape[0] of a tensor, not from len()",
            )


def _not_exported(error: Exception) -> OutriderError:
    said = f"{error} {error.__cause__ or ''}"
    if (known := untranslated(said, OPSET)) is not None:
        return known
    last = " ".join(str(error.__cause__ or error).split())[:300]
    return BundleMismatchError(
        f"torch cannot export the module: {last}",
        reason="export_failed",
        fix="forward() may branch only on shapes, never on values: compare torch.export's own report",
    )


def canonical(model: onnx.ModelProto) -> bytes:
    """Checked bytes of ``model`` without anything that depends on who made it, when, or where."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "outrider", "", ""
    model.graph.name, model.graph.doc_string = "graph", ""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.ClearField("metadata_props")
        if not isinstance(entry, onnx.ModelProto | onnx.GraphProto):
            entry.doc_string = ""
    del graph.value_info[:]
    used = {node.domain for node in graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(sorted(opsets, key=lambda entry: entry.domain))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision's absence and of its own deprecations, which no caller can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
