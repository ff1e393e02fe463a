"""A trained model becomes a bundle: variants, calibration, certificate, golden inputs, one directory. Trains nothing.

The same model, rows and seed give the same bytes, and so the same digest.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from torch import nn

from outrider_engine.golden import Golden, check_golden, encode_golden
from outrider_engine.items import ITEMS_FILE
from outrider_engine.model import Model, load_model
from outrider_engine.tokenizing import encoders_from
from outrider_export.certify import Behind, Certified, calibrate_and_certify, check_disjoint
from outrider_export.checkpoint import checkpoint_path, save_checkpoint
from outrider_export.copies import check_copies
from outrider_export.data import Progress, Table
from outrider_export.deferral import Learned, Pairs, learn
from outrider_export.onnx_support import Watched, with_support
from outrider_export.parents import Parent
from outrider_export.promises import Promise
from outrider_export.students import TOKENIZER_FILE, Architecture
from outrider_export.task_text import task_to_toml
from outrider_export.variants import Variants, make_variants
from outrider_wire.errors import BundleMismatchError, OperatorSetupError
from outrider_wire.groups import GROUP_ROWS
from outrider_wire.manifest import (
    MANIFEST_FILE,
    Acceptance,
    BundleFile,
    Calibration,
    LabelSource,
    Manifest,
    encode_manifest,
    manifest_digest,
)
from outrider_wire.steps import bounds_of
from outrider_wire.task import InputPart, Task

Choose = Callable[[Variants, Sequence[str], bool], Sequence[str]]
"""(what could ship, strata of the tuning rows, whether the support distance was fitted on these) → names, the preferred first."""

GOLDEN_FILE = "golden.msgpack"
TASK_FILE = "task.toml"
LICENCE_FILE = "license.txt"
_GOLDEN_ROWS = 4
_CALIBRATION_ROWS = 512
_ROLES: dict[str, Literal["golden", "task", "licence", "certification", "tokenizer"]] = {
    ITEMS_FILE: "certification",
    GOLDEN_FILE: "golden",
    TASK_FILE: "task",
    LICENCE_FILE: "licence",
    TOKENIZER_FILE: "tokenizer",
}


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built, and what may be said of it."""

    bundle: Path
    digest: str
    manifest: Manifest
    certified: Certified
    checkpoint: Path | None
    """The weights that training goes on from; None for a model that came as ONNX."""
    notes: Sequence[str] = ()
    """What does not ship, or ships by force, and why."""

    @property
    def sentences(self) -> list[str]:
        """What is promised, or why nothing is; what does not ship, and why."""
        return [*self.certified.sentences, *self.notes]


def build_bundle(
    *,
    task: Task,
    model: nn.Module | bytes,
    architecture: Architecture,
    tuning: Table,
    certification: Table | None,
    out: Path,
    version: str,
    support: Table | None = None,
    parent: str | None = None,
    seed: int = 0,
    precisions: Sequence[str] = ("int8", "fp32"),
    forced: Collection[str] = (),
    fixed_for: str = "",
    choose: Choose | None = None,
    delta: float | None = None,
    label_source: LabelSource = "ground_truth",
    behind: Behind | None = None,
    deferral: Pairs | None = None,
    replaces: Parent | None = None,
    licence: str = "",
    embedding: bool = False,
    items: bool = True,
    progress: Progress | None = None,
) -> BuildReport:
    """Write the bundle directory ``out`` whole or not at all, and the checkpoint ``out``.safetensors beside it.

    Args:
        task: what the model answers, and the promise: its risk and confidence.
        model: a trained module of ``architecture``, or ONNX bytes in fp32.
        architecture: names the inputs.
        tuning: rows of the tuning role: INT8 ranges, temperature, thresholds.
        certification: rows of the certification role, used here and nowhere else; None: nothing is certified.
        out: replaced if it is a bundle already.
        version: what people call the release.
        support: rows that the support distance is fitted on, labelled or not (training rows do); None: the tuning rows,
            with a correction for being judged on the rows that it was fitted on. ONNX bytes get one where their architecture
            is `watched`, and keep one that they bring.
        parent: digest of the bundle whose model this one was trained from.
        seed: chooses each group's row.
        precisions: variants by name (`outrider_export.recipes.RECIPES`), in order of preference; those within their tolerance
            ship, and the first of them is calibrated and certified.
        forced: variants that ship whatever their parity.
        fixed_for: who needs axes of fixed sizes; '' for nobody.
        choose: names those that ship, and in which order, of the variants that could; it sees tuning rows only. None: all.
        delta: δ of the certificate when it is not the task's (rows used before).
        label_source: whose labels the rows carry.
        behind: the large model, for a promised gap and for the bound on its error.
        deferral: what a model that was trained on none of these rows says of them, of the train role: a head that learns from
            them when ``model`` is right is part of the bundle if it ranks errors better on tuning rows; unused by ONNX bytes.
        replaces: the release that this one takes the place of: its support distance, floating-point layers and scales are kept where
            they still fit, so that a device which holds it is sent less; unused by ONNX bytes.
        licence: text of the model's licence.
        embedding: the model also gives the encoding of its first input, which an answer memory finds answers by.
        items: the bundle carries its certification rows, as the model reads them and with their labels, so that another precision or
            provider can be put to the same test. They are data: False leaves them out.
        progress: told each stage.

    Raises:
        OperatorSetupError: ``out`` exists and is no bundle.
        BundleMismatchError: what was exported does not compute what the module does.
        OperatorConfigError: a variant is unknown, an operator has no form in ONNX, or rows do not fit the model.
        RuleRefusalError: roles overlap, there are too few rows to fit on, or no variant is within its tolerance.
    """
    tell = progress or (lambda stage, share: None)
    _check_free(out)
    if certification is not None:
        check_disjoint(tuning, certification)
        check_copies(tuning, certification)
    key = f"build-{seed}"
    inputs = architecture.inputs(task)
    bounds = bounds_of(task, inputs)
    encoders = encoders_from(inputs, architecture.files)
    own_support = tuning.one_per_group(key)
    tell("exporting", 0.0)
    learned = Learned(None, "")
    if deferral is not None and isinstance(model, nn.Module):
        drawn = tuning.some_per_group(key, GROUP_ROWS).tensors(inputs, bounds, encoders=encoders)
        learned = learn(deferral, model, drawn, seed=seed)
    known = (support.one_per_group(key) if support else own_support).tensors(inputs, bounds, encoders=encoders)
    watched = Watched("", has=True)
    if isinstance(model, bytes) and architecture.watched:
        tell("learning what the model knows", 0.1)
        model, watched = with_support(model, inputs, known)
    variants = make_variants(
        model,
        inputs,
        tuning=tuning.tensors(inputs, bounds, encoders=encoders),
        calibration=own_support.take(np.arange(min(len(own_support), _CALIBRATION_ROWS))).tensors(
            inputs, bounds, encoders=encoders
        ),
        support=known,
        precisions=precisions,
        embedding=embedding,
        head=learned.head,
        forced=forced,
        fixed_for=fixed_for,
        parent=replaces,
    )
    if choose is not None:
        variants = variants.only(choose(variants, tuning.strata(task.strata), support is None))
    tell("certifying", 0.6)
    with _directory(out) as folder:
        draft = _draft(
            task=task,
            architecture=architecture,
            variants=variants,
            version=version,
            parent=parent,
            licence=licence,
            folder=folder,
            notes={
                **{name: says for name, says in (("deferral", learned.says), ("support", watched.says)) if says},
                **variants.notes,
            },
        )
        shipped = load_model(folder, bounds=bounds)
        certified = calibrate_and_certify(
            model=shipped,
            tuning=tuning,
            certification=certification,
            promise=Promise(
                risk=task.policy.target_risk,
                delta=delta or task.delta,
                label_source=label_source,
                gap=task.policy.target_gap if certification is not None else None,
            ),
            key=key,
            bounds=bounds,
            support_fitted_here=support is None,
            strata=task.strata,
            behind=behind,
        )
        if not items:
            certified = replace(certified, items=b"")
        manifest = _finished(draft, certified, seed, _golden(shipped, tuning), folder)
        tell("checking", 0.9)
        _check(folder, bounds)
    checkpoint = None
    if isinstance(model, nn.Module):
        checkpoint = checkpoint_path(out)
        save_checkpoint(checkpoint, model, architecture.name, variants.known)
    tell("done", 1.0)
    digest = manifest_digest(encode_manifest(manifest))
    return BuildReport(
        bundle=out,
        digest=digest,
        manifest=manifest,
        certified=certified,
        checkpoint=checkpoint,
        notes=[*variants.sentences, *([] if watched.has else [watched.says])],
    )


def rather(names: Sequence[str]) -> Choose:
    """Of these variants those that are within their tolerance; where none is, fp32 (which must be among what is made).

    For work that nobody watches: one variant that lost too much must not end it, and the manifest says what was left out.
    """
    return lambda made, strata, fitted: [each.name for each in made.variants if each.name in names] or ["fp32"]


def _draft(
    *,
    task: Task,
    architecture: Architecture,
    variants: Variants,
    version: str,
    parent: str | None,
    licence: str,
    folder: Path,
    notes: Mapping[str, str],
) -> Manifest:
    """A bundle that runs and promises nothing: what calibration is measured on."""
    files = {**variants.files, **architecture.files, TASK_FILE: task_to_toml(task).encode()}
    if licence:
        files[LICENCE_FILE] = licence.encode()
    versions = {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime")}
    manifest = Manifest(
        task=task.name,
        version=version,
        labels=task.labels,
        inputs=architecture.inputs(task),
        outputs=variants.outputs,
        files=[_written(folder, name, data) for name, data in sorted(files.items())],
        variants=list(variants.variants),
        calibration=Calibration(temperature=1.0),
        acceptance=Acceptance(),
        golden_tolerance=variants.logit_tolerance,
        parent=parent,
        architecture=architecture.name,
        embedding_parts=[architecture.inputs(task)[0].part] if variants.outputs.embedding else [],
        provenance={
            **versions,
            **{f"left-out-{name}": why for name, why in variants.left_out.items()},
            **architecture.notes,
            **notes,
        },
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def _finished(draft: Manifest, certified: Certified, seed: int, golden: bytes, folder: Path) -> Manifest:
    notes = {"seed": str(seed), "tuning_accuracy": f"{certified.tuning_accuracy:.4f}"}
    if certified.support_false_alarm is not None:
        notes["support_false_alarm"] = f"{certified.support_false_alarm:.4f}"
    extra = [_written(folder, ITEMS_FILE, certified.items)] if certified.items else []
    manifest = msgspec.structs.replace(
        draft,
        calibration=certified.calibration,
        acceptance=certified.acceptance,
        certificate=certified.certificate,
        scores={name: round(area, 5) for name, area in certified.scores.items()},
        golden=GOLDEN_FILE,
        certification=ITEMS_FILE if extra else None,
        files=[*draft.files, _written(folder, GOLDEN_FILE, golden), *extra],
        provenance={**draft.provenance, **notes},
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def _golden(model: Model, tuning: Table) -> bytes:
    """A few tuning rows, of different labels first, as a device would receive them, with the shipped session's logits."""
    _, firsts = np.unique(tuning.labels, return_index=True)
    rows = [int(row) for row in dict.fromkeys([*sorted(firsts), *range(len(tuning))])][:_GOLDEN_ROWS]
    found = model.infer([model.prepare(tuning.parts(row)) for row in rows])
    return encode_golden(
        [
            Golden(parts=tuning.parts(row), logits=[float(logit) for logit in each.logits])
            for row, each in zip(rows, found, strict=True)
        ]
    )


def _check(folder: Path, bounds: Sequence[InputPart]) -> None:
    """The finished bundle opens, claims its certificate, and repeats its golden answers one by one."""
    model = load_model(folder, bounds=bounds)
    faults = check_golden(model)
    if model.manifest.certificate is not None and model.certified:
        faults.append(model.certified)
    if faults:
        raise BundleMismatchError(f"the finished bundle fails its own check: {faults[0]}", reason="self_check_failed")


def _written(folder: Path, name: str, data: bytes) -> BundleFile:
    (folder / name).write_bytes(data)
    return BundleFile(
        path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), role=_ROLES.get(name, "model")
    )


def _check_free(out: Path) -> None:
    if out.exists() and not (out / MANIFEST_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise OperatorSetupError(
            f"{out} exists and is not a bundle", reason="output_occupied", fix="name another directory"
        )


@contextlib.contextmanager
def _directory(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` that takes its place when the block ends well, and is gone when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder, old = (out.with_name(f".{out.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rename(old)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
