"""A candidate from weights to a bundle in its place: distilled, exported, certified, delivered. Judges nothing."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from outrider_cloud.learning.lessons import Lessons
from outrider_engine.model import Model, load_model
from outrider_export.build import build_bundle, rather
from outrider_export.certify import Behind, Certified, calibrate_and_certify
from outrider_export.checkpoint import checkpoint_path, load_checkpoint
from outrider_export.data import Progress, Table, Tensors
from outrider_export.deferral import FEWEST_GROUPS, Pairs, join, make_pairs
from outrider_export.deferral import FEWEST_ROWS as FEWEST_PAIRS
from outrider_export.distil import FEWEST_ROWS, DistilPlan, Taught, Update, distil
from outrider_export.parents import Parent, parent_of
from outrider_export.promises import Promise
from outrider_export.recipes import recipes_like
from outrider_export.students import Architecture
from outrider_wire.errors import BundleMismatchError, OperatorConfigError, OperatorSetupError
from outrider_wire.manifest import MANIFEST_FILE, encode_manifest
from outrider_wire.roles import fraction_of
from outrider_wire.task import Task

MOST_ROWS = 40_000
"""Rows of D1 that a round goes through, over all epochs: 15 epochs of 2,700 rows."""
SMALL_ROUND = 500
"""Rows of D1 below which a round that is to choose trains the adapters alone: with 250 a full round kept less than before it, with
500 it kept more and more than the adapters did (demo, docs/deltas.md)."""

Asked = Literal["auto", "full", "adapters"]
"""What of the student is to learn; ``auto``: by the number of rows."""


def chosen_update(asked: Asked, rows: int) -> Update:
    """Whether a round of so many rows of D1 trains every layer or the adapters alone."""
    if asked == "auto":
        return "adapters" if rows < SMALL_ROUND else "full"
    return asked


@dataclass(frozen=True, kw_only=True)
class Base:
    """The deployed model, as a bundle that answers and as weights that can be trained."""

    model: Model
    module: nn.Module
    architecture: Architecture
    parent: Parent
    """The same, as what a candidate takes the place of."""


def open_base(bundle: Path, task: Task, *, threads: int) -> Base:
    """The deployed bundle and the checkpoint beside it.

    Raises:
        BundleError: the bundle is damaged, or not for this task.
        OperatorConfigError: the checkpoint cannot be read, or is of another architecture than the bundle.
    """
    model = load_model(bundle, threads=threads, bounds=task.inputs)
    if model.manifest.task != task.name or list(model.labels) != task.labels:
        raise BundleMismatchError(
            f"{bundle} answers task {model.manifest.task!r}, and the round is about {task.name!r}",
            reason="task_mismatch",
            fix="name the bundle that the devices of this task run",
        )
    module, architecture = load_checkpoint(checkpoint_path(bundle), task)
    if architecture.name != model.manifest.architecture:
        raise OperatorConfigError(
            f"{checkpoint_path(bundle)} holds a {architecture.name}, and the bundle was made of "
            f"a {model.manifest.architecture or 'model of another kind'}",
            reason="checkpoint_mismatch",
            fix="keep each bundle's own checkpoint beside it",
        )
    return Base(
        model=model,
        module=module,
        architecture=architecture,
        parent=parent_of(bundle, model.manifest, module),
    )


def distilled(base: Base, lessons: Lessons, plan: DistilPlan, *, seed: int, progress: Progress) -> nn.Module:
    """The student: the deployed model after one round of distillation, of fewer epochs where there is much to learn from."""
    most = max(1, MOST_ROWS // len(lessons.unsure.tensors))
    return distil(
        base.module,
        unsure=lessons.unsure,
        sure=lessons.sure,
        labelled=lessons.labelled,
        plan=replace(plan, epochs=min(plan.epochs, most)),
        seed=seed,
        temperature=base.model.manifest.calibration.temperature,
        progress=progress,
    )


def sister_pairs(base: Base, lessons: Lessons, plan: DistilPlan, *, seed: int, progress: Progress) -> Pairs | None:
    """What two sisters of the student say of the fresh rows, each of the half that she was not shown; None where there are too few.

    The student itself learns from every row, and so hardly errs on any. Sisters that begin with the same weights come to features
    that mean the same, so that what is learnt from their mistakes holds for the student, which loses no row to it.
    """
    fresh = lessons.fresh.tensors
    if len(fresh) < FEWEST_PAIRS or len(set(fresh.groups)) < FEWEST_GROUPS:
        return None
    halves: tuple[set[str], set[str]] = set(), set()
    for group in fresh.groups:
        halves[fraction_of(group, key=f"deferral-{seed}", salt="half") < 0.5].add(group)
    shown = [_without(lessons, half) for half in halves]
    if min(len(each.unsure.tensors) for each in shown) < FEWEST_ROWS:
        return None
    found = []
    for number, (half, own) in enumerate(zip(halves, shown, strict=True)):
        sister = distilled(base, own, plan, seed=seed, progress=partial(_half, progress, number))
        rows = np.flatnonzero([group in half for group in fresh.groups])
        found.append(make_pairs(sister, fresh.take(rows), lessons.fresh.probabilities[rows]))
    return join(found)


def _half(progress: Progress, number: int, what: str, share: float) -> None:
    progress(what, (number + share) / 2)


def _without(lessons: Lessons, groups: set[str]) -> Lessons:
    """The lessons without any row of these groups."""

    def others(tensors: Tensors) -> NDArray[np.int64]:
        return np.flatnonzero([group not in groups for group in tensors.groups])

    def fewer(taught: Taught) -> Taught:
        rows = others(taught.tensors)
        return Taught(tensors=taught.tensors.take(rows), probabilities=taught.probabilities[rows])

    return replace(
        lessons,
        unsure=fewer(lessons.unsure),
        sure=fewer(lessons.sure),
        labelled=lessons.labelled.take(others(lessons.labelled)),
    )


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Builds and certifies candidates of one base in a folder of their own."""

    base: Base
    task: Task
    tuning: Table
    known: Table | None
    behind: Behind
    folder: Path
    seed: int

    @property
    def bundle(self) -> Path:
        """Where the candidate is made."""
        return self.folder / "bundle"

    def build(self, student: nn.Module, *, pairs: Pairs | None, version: str, progress: Progress) -> Model:
        """Exports and calibrates a student, with a deferral score where one is worth it; a bundle that promises nothing yet."""
        variants = recipes_like(self.base.model.manifest.variants)
        build_bundle(
            task=self.task,
            model=student,
            architecture=self.base.architecture,
            tuning=self.tuning,
            certification=None,
            support=self.known,
            out=self.bundle,
            version=version,
            parent=self.base.model.digest,
            seed=self.seed,
            precisions=list(dict.fromkeys([*variants, "fp32"])),
            choose=rather(variants),
            embedding=self.base.model.manifest.outputs.embedding is not None,
            deferral=pairs,
            replaces=self.base.parent,
            progress=progress,
        )
        return load_model(self.bundle, bounds=self.task.inputs)

    @property
    def key(self) -> str:
        """Chooses the tuning row of each group; `build_bundle`'s own, so that calibration and thresholds stay the same."""
        return f"build-{self.seed}"

    def certify(self, rows: Table, *, delta: float, caps: Mapping[str, float]) -> Certified:
        """Certifies the built bundle, once, at no more than the gate judged (``caps``), and writes it into the manifest."""
        built = load_model(self.bundle, bounds=self.task.inputs)
        certified = calibrate_and_certify(
            model=built,
            tuning=self.tuning,
            certification=rows,
            promise=Promise(risk=self.task.policy.target_risk, delta=delta, gap=self.task.policy.target_gap),
            key=self.key,
            bounds=self.task.inputs,
            support_fitted_here=self.known is None,
            caps=caps,
            strata=self.task.strata,
            behind=self.behind,
        )
        manifest = msgspec.structs.replace(
            built.manifest,
            calibration=certified.calibration,
            acceptance=certified.acceptance,
            certificate=certified.certificate,
        )
        (self.bundle / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
        return certified

    def finished(self) -> Model:
        """The bundle as it will ship.

        Raises:
            BundleMismatchError: it may not claim the certificate that it carries.
        """
        model = load_model(self.bundle, bounds=self.task.inputs)
        if model.manifest.certificate is not None and model.certified:
            raise BundleMismatchError(
                f"the candidate may not claim its certificate: {model.certified}", reason="self_check_failed"
            )
        return model


def check_free(out: Path) -> None:
    """Whether a bundle may be put there.

    Raises:
        OperatorSetupError: something else than a bundle is there.
    """
    if out.exists() and not (out / MANIFEST_FILE).is_file():
        raise OperatorSetupError(
            f"{out} exists and is not a bundle", reason="output_occupied", fix="name another directory with -o"
        )


def deliver(made: Path, out: Path) -> None:
    """Moves a finished bundle and its checkpoint (on the same disk) to ``out``, in place of a bundle that may be there."""
    old = made.with_name("old")
    if out.exists():
        out.rename(old)
    made.rename(out)
    checkpoint_path(made).replace(checkpoint_path(out))
    shutil.rmtree(old, ignore_errors=True)
