"""One trained model at each precision: ONNX bytes, and how far each is from the one before. Knows no directory and no rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from outrider_engine.session import OrtSession
from outrider_engine.walk import walk
from outrider_export.data import Tensors
from outrider_export.deferral import Deferring, Head
from outrider_export.networks import Pools, Splits
from outrider_export.parity import parity, run_rows
from outrider_export.quantize import static_int8
from outrider_export.support import Deployable, Embedding, fit_known, pooled_features
from outrider_export.to_onnx import export_onnx
from outrider_export.training import predict
from outrider_wire.errors import BundleMismatchError, OperatorConfigError
from outrider_wire.manifest import ModelInput, Outputs, Precision, Variant

_FEED_ROWS = 64
_EXPORT_TOLERANCE = 1e-3
"""Largest difference between torch and the exported model, as a share of the largest logit."""

EMBEDDING = "embedding"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Variants:
    """The models of a bundle."""

    files: Mapping[str, bytes]
    variants: Sequence[Variant]
    outputs: Outputs
    logit_tolerance: float
    """What another processor's rounding may change in a logit of the first variant."""
    notes: Mapping[str, str] = field(default_factory=dict)


def make_variants(
    model: nn.Module | bytes,
    inputs: Sequence[ModelInput],
    *,
    tuning: Tensors,
    calibration: Tensors,
    support: Tensors,
    precisions: Sequence[Precision],
    embedding: bool = False,
    head: Head | None = None,
) -> Variants:
    """ONNX at each of ``precisions`` ("fp32", "int8"), in that order of preference.

    Args:
        model: a torch module, or ONNX bytes in fp32 whose first output is the logits.
        inputs: what it reads.
        tuning: rows that parity is measured on.
        calibration: rows that INT8 is calibrated on, one a group.
        support: rows that the support distance is fitted on, labelled or not; unused by ONNX bytes and by a module that
            does not pool.
        precisions: at least one.
        embedding: export the first input's encoding as well. ONNX bytes bring it as an output of that name, or not.
        head: gives a module its deferral score; unused by ONNX bytes, which bring their own or none.

    Raises:
        OperatorConfigError: an unknown precision, or an ONNX file that has no output or does not read ``inputs``.
        BundleUnsafeError: an ONNX file that no device would load.
        BundleMismatchError: the exported model does not compute what the module does.
    """
    if isinstance(model, bytes):
        outputs = _outputs_of(model, inputs, embedding=embedding)
        plain, exact = model, run_rows(OrtSession(model), tuning)
    else:
        plain, outputs, exact = _exported(model, inputs, tuning, support, embedding=embedding, head=head)
    before = run_rows(OrtSession(plain), tuning)
    files: dict[str, bytes] = {}
    variants, notes = [], {}
    for precision in precisions:
        name = f"model.{precision}.onnx"
        if precision == "int8":
            feeds = list(calibration.batches(_FEED_ROWS))
            exactly = [name for name in (outputs.support, outputs.deferral) if name]
            quantized = static_int8(
                plain, feeds, logits=outputs.logits, exact=exactly, judged=list(tuning.batches(_FEED_ROWS))
            )
            walk(quantized.data)
            files[name], notes["int8_float_layers"] = quantized.data, str(quantized.float_layers)
            figures = parity(before, run_rows(OrtSession(quantized.data), tuning), tuning.labels, outputs)
        elif precision == "fp32":
            files[name], figures = plain, parity(exact, before, tuning.labels, outputs)
        else:
            raise OperatorConfigError(
                f"there is no exporter for {precision}", reason="unknown_precision", fix="choose int8 or fp32"
            )
        variants.append(Variant(name=precision, file=name, precision=precision, parity=figures))
    tolerance = _rounding(files[variants[0].file], tuning, outputs.logits)
    return Variants(files=files, variants=variants, outputs=outputs, logit_tolerance=tolerance, notes=notes)


def _exported(
    module: nn.Module,
    inputs: Sequence[ModelInput],
    tuning: Tensors,
    support: Tensors,
    *,
    embedding: bool,
    head: Head | None,
) -> tuple[bytes, Outputs, Arrays]:
    module.eval()
    if embedding and not isinstance(module, Splits):
        raise OperatorConfigError(
            "the module has no embedding to export",
            reason="no_embedding",
            fix="give it encode(first) and fuse(features, *rest), as the shipped students have, or leave out --embedding",
        )
    deployed, outputs = module, Outputs(embedding=EMBEDDING if embedding else None)
    if isinstance(module, Pools):
        deployed = Deployable(module, fit_known(pooled_features(module, support)), embedding=embedding)
        outputs = msgspec.structs.replace(outputs, support="support")
    elif embedding:
        deployed = Embedding(module)
    if head is not None:
        deployed = Deferring(deployed, module, head).eval()
        outputs = msgspec.structs.replace(outputs, deferral="deferral")
    names = [name for name in (outputs.logits, outputs.support, outputs.embedding, outputs.deferral) if name]
    data = export_onnx(deployed, inputs, names)
    walk(data)
    exact = {outputs.logits: predict(module, tuning)}
    for place, name in enumerate(names[1:], 1):
        exact[name] = _output(deployed, tuning, place)
    found = run_rows(OrtSession(data), tuning)[outputs.logits]
    apart = float(np.abs(found - exact[outputs.logits]).max() / max(np.abs(found).max(), 1e-6))
    if not apart <= _EXPORT_TOLERANCE:
        raise BundleMismatchError(
            f"the exported model is {apart:.2g} of its largest logit from the module",
            reason="export_mismatch",
            fix="the module does something that ONNX does not: compare its forward() in evaluation mode",
        )
    return data, outputs, exact


def _output(deployed: nn.Module, tensors: Tensors, place: int) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate(
            [deployed(*map(torch.from_numpy, batch.values()))[place].numpy() for batch in tensors.batches(_FEED_ROWS)]
        )


def _outputs_of(model: bytes, inputs: Sequence[ModelInput], *, embedding: bool) -> Outputs:
    facts = walk(model)
    wanted, have = {entry.tensor for entry in inputs}, {fact.name for fact in facts.inputs}
    if wanted != have or not facts.outputs:
        raise OperatorConfigError(
            f"the ONNX file reads {', '.join(sorted(have)) or 'nothing'}, and {', '.join(sorted(wanted))} is prepared",
            reason="onnx_inputs",
            fix="give it one output of logits, and inputs that its task's parts can fill",
        )
    names = [fact.name for fact in facts.outputs]
    if embedding and EMBEDDING not in names[1:]:
        raise OperatorConfigError(
            f"the ONNX file has no output {EMBEDDING!r}",
            reason="no_embedding",
            fix="add one, or leave out --embedding",
        )
    return Outputs(
        logits=names[0],
        support="support" if "support" in names[1:] else None,
        embedding=EMBEDDING if embedding else None,
        deferral="deferral" if "deferral" in names[1:] else None,
    )


def _rounding(data: bytes, tensors: Tensors, logits: str) -> float:
    """Twice what ONNX Runtime's own fusing changes in a logit, and at least 0.2 % of the largest: other kernels round so."""
    fused = run_rows(OrtSession(data), tensors)[logits]
    plain = run_rows(OrtSession(data, optimise=False), tensors)[logits]
    return round(max(1e-2, 2e-3 * float(np.abs(fused).max()), 2 * float(np.abs(fused - plain).max())), 4)
