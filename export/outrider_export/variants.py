"""One trained model as its variants: ONNX bytes, and how far each is from the one before. Knows no directory and no promise."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from outrider_engine.model import scales_by_batch
from outrider_engine.session import OrtSession
from outrider_engine.walk import walk
from outrider_export.data import Tensors
from outrider_export.deferral import Deferring, Head
from outrider_export.feeds import check_feeds
from outrider_export.fixed_shapes import one_by_one
from outrider_export.halve import to_fp16
from outrider_export.networks import Pools, Splits
from outrider_export.operator_support import check_operators
from outrider_export.parents import Parent, still_known
from outrider_export.parity import parity, run_rows
from outrider_export.quantize import to_int8
from outrider_export.recipes import Recipe, find_recipes
from outrider_export.support import Deployable, Embedding, Known, fit_known, pooled_features
from outrider_export.to_onnx import export_onnx
from outrider_export.training import predict
from outrider_wire.errors import BundleMismatchError, OperatorConfigError, RuleRefusalError
from outrider_wire.manifest import LeftInFloat, ModelInput, Outputs, Variant

_FEED_ROWS = 64
_EXPORT_TOLERANCE = 1e-3
"""Largest difference between torch and the exported model, as a share of the largest logit."""

_EIGHT_BIT = frozenset({"DequantizeLinear", "MatMulInteger", "ConvInteger"})

EMBEDDING = "embedding"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Variants:
    """The models of a bundle."""

    files: Mapping[str, bytes]
    variants: Sequence[Variant]
    outputs: Outputs
    said: Mapping[str, Arrays]
    """Variant → all its outputs of all tuning rows."""
    tuning: Tensors
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Variant → why it does not ship."""
    known: Sequence[Known] = ()
    """What the support distance was taken from, where it was fitted or kept here."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What of a parent was kept, for the bundle's provenance."""

    @property
    def logit_tolerance(self) -> float:
        """What another processor's rounding may change in a logit of the first variant."""
        return _rounding(self.files[self.variants[0].file], self.tuning, self.outputs.logits)

    @property
    def sentences(self) -> list[str]:
        """What a person should know of what is here and what is not."""
        forced = [f"{each.name} ships by force: {each.forced}" for each in self.variants if each.forced]
        return [*forced, *(f"{name} does not ship: {why}" for name, why in self.left_out.items())]

    def only(self, names: Sequence[str]) -> "Variants":
        """These variants, in this order."""
        kept = [each for name in names for each in self.variants if each.name == name]
        return replace(self, variants=kept, files={each.file: self.files[each.file] for each in kept})


def make_variants(
    model: nn.Module | bytes,
    inputs: Sequence[ModelInput],
    *,
    tuning: Tensors,
    calibration: Tensors,
    support: Tensors,
    precisions: Sequence[str],
    embedding: bool = False,
    head: Head | None = None,
    forced: Collection[str] = (),
    fixed_for: str = "",
    parent: Parent | None = None,
) -> Variants:
    """ONNX by each recipe of ``precisions``, in that order of preference; what is out of its tolerance is left out, and why is said.

    Args:
        model: a torch module, or ONNX bytes in fp32 whose first output is the logits.
        inputs: what it reads.
        tuning: rows that parity is measured on.
        calibration: rows that INT8 is calibrated on, one a group.
        support: rows that the support distance is fitted on, labelled or not; unused by ONNX bytes and by a module that
            does not pool.
        precisions: at least one name of `outrider_export.recipes.RECIPES`.
        embedding: export the first input's encoding as well. ONNX bytes bring it as an output of that name, or not.
        head: gives a module its deferral score; unused by ONNX bytes, which bring their own or none.
        forced: names of variants that ship whatever their parity; each then says what is wrong with it.
        fixed_for: who needs every axis of a fixed size, and gets batches of one; '' for nobody.
        parent: the release that this one takes the place of, of which as much is kept as still fits; unused by ONNX bytes.

    Raises:
        OperatorConfigError: an unknown variant, an operator that ONNX has not, rows that do not fit, or an ONNX file that has no
            output, does not read ``inputs``, or has an axis that cannot be fixed.
        BundleUnsafeError: an ONNX file that no device would load.
        BundleMismatchError: the exported model does not compute what the module does.
        RuleRefusalError: every one of them is out of its tolerance.
    """
    recipes = find_recipes(precisions)
    known: Sequence[Known] = ()
    notes: dict[str, str] = {}
    if isinstance(model, bytes):
        outputs = _outputs_of(model, inputs, embedding=embedding)
        _check_rows(model, tuning, calibration)
        plain, exact = model, _said(model, tuning)
    else:
        known = _known(model, parent, tuning, support, notes)
        plain, outputs, exact = _exported(model, inputs, tuning, known, embedding=embedding, head=head)
        _check_rows(plain, tuning, calibration)
    before = _said(plain, tuning)
    maker = _Maker(
        plain=plain,
        outputs=outputs,
        tuning=tuning,
        calibration=calibration,
        fixed_for=fixed_for,
        parent=parent.files if parent is not None and not isinstance(model, bytes) else {},
    )
    files: dict[str, bytes] = {}
    variants, said, left_out = [], {}, {}
    for recipe in recipes:
        made = maker.make(recipe)
        found = _said(made.data, tuning)
        reference = exact if recipe.name == "fp32" else before
        figures = parity(reference, found, tuning.labels, outputs, groups=tuning.groups)
        fault = _nothing_done(recipe, made.data) or recipe.tolerance.fault(figures)
        if fault and recipe.name not in forced:
            left_out[recipe.name] = fault
            continue
        file = f"model.{recipe.name}.onnx"
        files[file], said[recipe.name] = made.data, found
        if made.as_parent:
            notes[f"kept-{recipe.name}"] = "the parent's floating-point layers, scales and zero points, where they fit"
        variants.append(
            Variant(
                name=recipe.name,
                file=file,
                precision=recipe.precision,
                parity=figures,
                about=recipe.about,
                left_in_float=list(made.left),
                forced=fault,
            )
        )
    if not variants:
        raise _none_fit(left_out)
    return Variants(
        files=files,
        variants=variants,
        outputs=outputs,
        said=said,
        tuning=tuning,
        left_out=left_out,
        known=known,
        notes=notes,
    )


@dataclass(frozen=True)
class _Made:
    data: bytes
    left: Sequence[LeftInFloat] = ()
    as_parent: bool = False


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes one variant of a model after the other."""

    plain: bytes
    outputs: Outputs
    tuning: Tensors
    calibration: Tensors
    fixed_for: str
    parent: Mapping[str, bytes]
    """Variant → the same of the parent."""

    def make(self, recipe: Recipe) -> _Made:
        made = self._made(recipe)
        data = one_by_one(made.data, wanted_by=self.fixed_for) if self.fixed_for else made.data
        walk(data)
        return _Made(data, made.left, made.as_parent)

    def _made(self, recipe: Recipe) -> _Made:
        exactly = [name for name in (self.outputs.support, self.outputs.deferral) if name]
        if recipe.scheme is not None:
            rows = 1 if any(fact.shape and fact.shape[0] == 1 for fact in walk(self.plain).inputs) else _FEED_ROWS
            quantized = to_int8(
                self.plain,
                list(self.calibration.batches(rows)),
                scheme=recipe.scheme,
                logits=self.outputs.logits,
                exact=exactly,
                judged=list(self.tuning.batches(rows)),
                parent=self.parent.get(recipe.name),
            )
            return _Made(quantized.data, quantized.left, quantized.as_parent)
        if recipe.precision == "fp16":
            halved = to_fp16(self.plain, logits=self.outputs.logits, exact=exactly)
            return _Made(halved.data, halved.left)
        return _Made(self.plain)


def _said(data: bytes, rows: Tensors) -> Arrays:
    """All outputs of all rows, as a device would get them."""
    return run_rows(OrtSession(data), rows, apart=scales_by_batch(data))


def _nothing_done(recipe: Recipe, data: bytes) -> str:
    if recipe.scheme is None or _EIGHT_BIT.intersection(walk(data).operators):
        return ""
    return "nothing in the model could become 8-bit: it would be fp32 under another name"


def _check_rows(model: bytes, tuning: Tensors, calibration: Tensors) -> None:
    facts = walk(model).inputs
    check_feeds(facts, tuning, whose="tuning")
    check_feeds(facts, calibration, whose="calibration")


def _none_fit(left_out: Mapping[str, str]) -> RuleRefusalError:
    said = "; ".join(f"{name}: {why}" for name, why in left_out.items())
    return RuleRefusalError(
        f"no variant is near enough to fp32: {said}",
        reason="out_of_tolerance",
        fix=f"export fp32 too, or force one by name: --force {next(iter(left_out))}",
    )


def _known(
    module: nn.Module, parent: Parent | None, tuning: Tensors, support: Tensors, notes: dict[str, str]
) -> Sequence[Known]:
    """What the support distance is taken from: the parent's where it still holds, or else fitted."""
    if not isinstance(module, Pools):
        return ()
    if parent is not None and (held := still_known(parent, module.eval(), tuning)) is not None:
        notes["support"] = held.says
        if held.holds:
            return parent.known
    return fit_known(pooled_features(module.eval(), support))


def _exported(
    module: nn.Module,
    inputs: Sequence[ModelInput],
    tuning: Tensors,
    known: Sequence[Known],
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
    if known:
        deployed = Deployable(module, known, embedding=embedding)
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
    check_operators(facts)
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
