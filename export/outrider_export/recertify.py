"""A finished bundle's own rule, certified anew on labelled rows: for another provider, a changed stream, or rows that are fresh.

Calibration, score and support threshold stay; only thresholds are set anew, on tuning rows. Trains nothing and writes only
the copy that is asked for.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_engine.items import ITEMS_FILE
from outrider_engine.model import Model
from outrider_export.asking import ask
from outrider_export.beside import checkpoint_path
from outrider_export.certify import Certified, calibrate_and_certify, certifying_rows, data_digest
from outrider_export.copies import check_copies, check_counted_once
from outrider_export.data import Table
from outrider_export.promises import Promise
from outrider_export.ruling import Ruling, kept_by, ruling, with_warnings
from outrider_wire.acceptance import accepted
from outrider_wire.calibration import calibration_gap, reliability
from outrider_wire.errors import BundleMismatchError, OperatorSetupError, RuleRefusalError
from outrider_wire.manifest import (
    MANIFEST_FILE,
    Acceptance,
    BundleFile,
    Certificate,
    Manifest,
    encode_manifest,
    manifest_digest,
)
from outrider_wire.task import Task


@dataclass(frozen=True, kw_only=True)
class Recertified:
    """What came of it."""

    ruling: Ruling
    manifest: Manifest
    """With the new thresholds and certificate; the old one where nothing certifies."""
    items: bytes = b""
    """The new certification items, for `write_copy`; empty where nothing certifies, or they are left out."""


def recertify(
    *,
    model: Model,
    task: Task,
    tuning: Table,
    certification: Table,
    promise: Promise,
    key: str,
    items: bool = True,
) -> Recertified:
    """Certifies the bundle's rule on rows that it was not trained on.

    Args:
        model: the bundle, loaded.
        task: its task, for bounds and strata.
        tuning: rows that set thresholds.
        certification: rows that certify, used for nothing else.
        promise: r*, δ and whose labels; a gap cannot be promised here.
        key: draws the rows of each group.
        items: the copy may carry the new certification rows, where the bundle carried its old ones.

    Raises:
        RuleRefusalError: the rows cannot carry a certificate.
        BundleMismatchError: the bundle answers another task.
    """
    if model.manifest.task != task.name or list(model.labels) != task.labels:
        raise BundleMismatchError(
            f"the bundle answers task {model.manifest.task!r}, and the rows are of {task.name!r} or have other labels",
            reason="task_mismatch",
            fix="name the task that the bundle was made for",
        )
    check_copies(tuning, certification)
    for table in (tuning, certification):
        check_counted_once(table)
    rows = certifying_rows(certification, key, task.strata, tuning=tuning)
    said = ask(
        model, rows.tensors(model.manifest.inputs, task.inputs, encoders=model.encoders), rows.strata(task.strata)
    )
    right = said.answers == rows.labels
    _check_answers(said.probabilities, right)
    certified = calibrate_and_certify(
        model=model,
        tuning=tuning,
        certification=certification,
        promise=promise,
        key=key,
        bounds=task.inputs,
        strata=task.strata,
        keep_rule=True,
    )
    carried = certified.items if items and model.manifest.certification is not None else b""
    manifest = _manifest(model.manifest, certified)
    if carried and certified.certificate is not None:
        manifest = _with_items(manifest, carried)
    kept = accepted(certified.acceptance, said.signals)
    bins = reliability(said.probabilities.max(axis=1), right)
    made = ruling(
        certified.outcomes,
        promise,
        hopeless=certified.hopeless,
        n=len(rows),
        accuracy=certified.tuning_accuracy,
        notes=_notes(certified),
    )
    shown = kept_by("class", [task.labels[label] for label in rows.labels.tolist()], kept, right)
    strata = kept_by("stratum", said.strata, kept, right) if said.strata else []
    made = msgspec.structs.replace(
        made, kept=[*shown, *strata], calibration_error=calibration_gap(bins), reliability=bins
    )
    return Recertified(ruling=with_warnings(made, right), manifest=manifest, items=carried)


def reused(manifest: Manifest, certification: Table) -> bool:
    """Whether the bundle's own certificate was made on these very groups."""
    return manifest.certificate is not None and manifest.certificate.data_digest == data_digest(certification.groups)


def write_copy(source: Path, out: Path, manifest: Manifest, items: bytes = b"") -> str:
    """Writes the bundle ``source`` with another manifest to ``out`` (or in its place), its checkpoint beside it; the new digest.

    ``items`` are the certification items that the manifest names; without any, those of the old certificate go.

    Raises:
        OperatorSetupError: ``out`` is something else than a bundle.
    """
    data = encode_manifest(manifest)
    if out.resolve() == source.resolve():
        _replace_all(out, data, items)
        return manifest_digest(data)
    if out.exists() and not (out / MANIFEST_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise OperatorSetupError(
            f"{out} exists and is not a bundle", reason="output_occupied", fix="name another directory with -o"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f".{out.name}.new-{os.getpid()}")
    shutil.rmtree(made, ignore_errors=True)
    try:
        shutil.copytree(source, made)
        _replace_all(made, data, items)
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if checkpoint_path(source.resolve()).is_file():
        shutil.copyfile(checkpoint_path(source.resolve()), checkpoint_path(out.resolve()))
    return manifest_digest(data)


def with_certificate(manifest: Manifest, rule: Acceptance, certificate: Certificate | None) -> Manifest:
    """The manifest under that rule and certificate, without the certification items of the old one."""
    return msgspec.structs.replace(
        manifest, acceptance=rule, certificate=certificate, certification=None, files=manifest.needed
    )


def _with_items(manifest: Manifest, items: bytes) -> Manifest:
    entry = BundleFile(path=ITEMS_FILE, sha256=hashlib.sha256(items).hexdigest(), size=len(items), role="certification")
    return msgspec.structs.replace(manifest, certification=ITEMS_FILE, files=[*manifest.files, entry])


def _replace_all(folder: Path, manifest: bytes, items: bytes) -> None:
    """The old items go first and the new ones come last: the bundle is whole without any."""
    (folder / ITEMS_FILE).unlink(missing_ok=True)
    _replaced(folder / MANIFEST_FILE, manifest)
    if items:
        _replaced(folder / ITEMS_FILE, items)


def _replaced(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_bytes(data)
    temporary.replace(file)


def _manifest(manifest: Manifest, certified: Certified) -> Manifest:
    if certified.certificate is None:
        return manifest
    return with_certificate(manifest, certified.acceptance, certified.certificate)


def _notes(certified: Certified) -> list[str]:
    share = certified.support_false_alarm
    return (
        [] if share is None else [f"{share:.1%} of the certification rows are refused as unlike what the model knows"]
    )


def _check_answers(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
    if not np.isfinite(probabilities).all():
        raise RuleRefusalError(
            "the model's confidence is not a number on some rows",
            reason="scores_not_numbers",
            fix="find out why: outrider bundle verify --run",
        )
    sure = probabilities.max(axis=1)
    if len(sure) > 1 and len(np.unique(sure)) == 1:
        raise RuleRefusalError(
            f"the model is {sure[0]:.1%} sure of every row: no threshold can tell sure rows from unsure ones",
            reason="scores_constant",
            fix="export the model again, with its logits as the first output",
        )
    if len(right) and not right.any():
        raise RuleRefusalError(
            f"every one of {len(right)} answers is wrong",
            reason="all_wrong",
            fix="see whether the labels are in another order than the model's",
        )
