"""A first small model from a large one and labelled rows: trained, exported, certified, tested. Splits nothing.

Knows no store, no broker and no configuration file. A large model that is a bundle already is taken as it is.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from torch import nn

from outrider_engine.bundle import open_bundle
from outrider_engine.model import Model, load_model
from outrider_engine.tokenizing import encoders_from
from outrider_export.asking import Said, ask_rows
from outrider_export.build import build_bundle
from outrider_export.certify import behind_model
from outrider_export.data import Progress, Table, Tensors
from outrider_export.distil import FEWEST_ROWS, DistilPlan, Taught, distil
from outrider_export.named import Named, find_named, is_bundle
from outrider_export.side_by_side import Side, side
from outrider_export.split import Tables
from outrider_export.students import new_module
from outrider_export.training import TrainingPlan, predict, train
from outrider_wire.acceptance import accepted
from outrider_wire.errors import BundleMismatchError
from outrider_wire.manifest import Certificate
from outrider_wire.roles import Role
from outrider_wire.task import Task

LEAST_STEPS = 400
"""Optimiser steps below which a large network has hardly begun: 20 epochs of 600 images left one at 62 %, 60 took it to 97 %."""


class Allowance(NamedTuple):
    """What the certificate may use."""

    groups: Sequence[str]
    """Of the certification role; none: nothing may be certified."""
    delta: float
    """δ that this use pays."""
    shortage: str = ""
    """Why there are none."""


class FitReport(Struct, kw_only=True, frozen=True):
    """What came of it. Shares are of the test rows, which nothing was trained, chosen or certified on."""

    teacher_accuracy: float
    student_accuracy: float
    distilled: bool
    """False: distillation made the student worse on tuning rows, or there were too few rows, so it was left out."""
    kept: float
    """Share that the device answers itself under the certificate."""
    kept_risk: float
    system_accuracy: float
    """With the large model's answer where the device does not keep its own."""
    test_rows: int
    certificate: Certificate | None
    sentences: list[str]
    small: str
    """Digest of the small bundle."""
    large: str
    sides: list[Side]
    """Every variant of the large model and of the small one, on the same rows."""

    def table(self) -> list[tuple[str, str]]:
        """(figure, value) for a person."""
        certified = f"{self.certificate.coverage:.1%}" if self.certificate else "nothing"
        return [
            ("large model right", f"{self.teacher_accuracy:.1%}"),
            ("small model right", f"{self.student_accuracy:.1%}"),
            ("certified to stay on the device", certified),
            ("kept on the device", f"{self.kept:.1%}"),
            ("of these wrong", f"{self.kept_risk:.1%}"),
            ("right as a system", f"{self.system_accuracy:.1%}"),
        ]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One fit: the large model first, then the small one that learns from it. Both bundles go under ``out``."""

    task: Task
    tables: Tables
    out: Path
    seed: int
    allow: Callable[[Sequence[str]], Allowance]
    """Asked once, with the group of every certification row, before these are looked at: a ledger writes down that they are used."""
    progress: Progress

    @property
    def small(self) -> Path:
        """The small model's bundle; its checkpoint lies beside it."""
        return self.out / "small"

    @property
    def large(self) -> Path:
        """The large model's bundle."""
        return self.out / "large"

    def run(self, *, teacher: str, student: str) -> FitReport:
        """Trains what is still to be trained, exports and certifies.

        Args:
            teacher: as `outrider_export.named.find_named` takes it, or a bundle's directory.
            student: as `outrider_export.named.find_named` takes it.

        Raises:
            OutriderError: a model cannot be used, or there are too few rows.
        """
        learner = find_named(student, self.task)
        large = self._large(teacher)
        module, was_distilled = self._student(learner, large)
        allowance = self.allow(sorted(self.tables["certification"].groups))
        built = build_bundle(
            task=self.task,
            model=module,
            architecture=learner.architecture,
            tuning=self.tables["tuning"],
            certification=self._certification(set(allowance.groups)),
            delta=allowance.delta,
            support=self.tables["train"],
            behind=behind_model(large, self.task.inputs),
            out=self.small,
            version="1",
            seed=self.seed,
            embedding=self.task.memory.enabled,
            progress=self._named("student"),
        )
        sentences = [f"no certificate: {allowance.shortage}"] if allowance.shortage else built.sentences
        return self._tested(large, sentences, was_distilled)

    def _certification(self, allowed: set[str]) -> Table | None:
        table = self.tables["certification"]
        rows = np.flatnonzero([group in allowed for group in table.groups])
        return table.take(rows) if len(rows) else None

    def _large(self, teacher: str) -> Model:
        if is_bundle(teacher):
            self._copied(Path(teacher))
        else:
            named = find_named(teacher, self.task)
            build_bundle(
                task=self.task,
                model=self._ready(named, "teacher"),
                architecture=named.architecture,
                tuning=self.tables["tuning"],
                certification=None,
                support=self.tables["train"],
                out=self.large,
                version="large-1",
                seed=self.seed,
                precisions=("fp32", "int8"),
                progress=self._named("teacher"),
            )
        return load_model(self.large, bounds=self.task.inputs)

    def _copied(self, bundle: Path) -> None:
        manifest = open_bundle(bundle).manifest
        if manifest.labels != self.task.labels or {each.part for each in manifest.inputs} != {
            part.name for part in self.task.inputs
        }:
            raise BundleMismatchError(
                f"{bundle} has other labels or parts than task {self.task.name}",
                reason="task_mismatch",
                fix="export a teacher for this task, with its labels in its order",
            )
        if bundle.resolve() != self.large.resolve():
            shutil.rmtree(self.large, ignore_errors=True)
            shutil.copytree(bundle, self.large)

    def _ready(self, named: Named, who: str) -> nn.Module | bytes:
        """The model as it came, with the head that it lacked, or trained from the beginning."""
        if named.model is not None:
            return named.model
        rows = self._tensors(named, "train")
        if named.finish is not None:
            self.progress(f"{who}: training a head", 0.0)
            return named.finish(rows)
        return self._trained(named, rows, who)

    def _trained(self, named: Named, rows: Tensors, who: str) -> nn.Module:
        module = new_module(named.architecture, self.task, seed=self.seed)
        train(module, rows, _long_enough(named.architecture.plan, rows), seed=self.seed, progress=self._named(who))
        return module

    def _student(self, named: Named, large: Model) -> tuple[nn.Module | bytes, bool]:
        """The student after labels and after the teacher, whichever is better on tuning rows."""
        module = self._ready(named, "student")
        if isinstance(module, bytes):
            return module, False
        rows = self._tensors(named, "train")
        if len(rows) < FEWEST_ROWS:
            return module, False
        taught = Taught(tensors=rows, probabilities=self._said(large, "train").probabilities)
        better = distil(
            module,
            unsure=taught,
            sure=None,
            labelled=rows,
            plan=DistilPlan(),
            seed=self.seed,
            progress=self._named("student"),
        )
        tuning = self._tensors(named, "tuning")
        return (better, True) if _accuracy(better, tuning) >= _accuracy(module, tuning) else (module, False)

    def _tested(self, large: Model, sentences: list[str], was_distilled: bool) -> FitReport:
        small = load_model(self.small, bounds=self.task.inputs)
        labels = self.tables["test"].labels
        ours, theirs = self._said(small, "test"), self._said(large, "test")
        kept = accepted(small.manifest.acceptance, ours.signals)
        right, large_right = ours.answers == labels, theirs.answers == labels
        return FitReport(
            teacher_accuracy=float(large_right.mean()),
            student_accuracy=float(right.mean()),
            distilled=was_distilled,
            kept=float(kept.mean()),
            kept_risk=float((~right[kept]).mean()) if kept.any() else 0.0,
            system_accuracy=float(np.where(kept, right, large_right).mean()),
            test_rows=len(labels),
            certificate=small.manifest.certificate,
            sentences=[*sentences, *_left_out(large), *self._compared(small, large)],
            small=small.digest,
            large=large.digest,
            sides=self._sides(small, large),
        )

    def _sides(self, small: Model, large: Model) -> list[Side]:
        """Every variant of both bundles, each asked the same rows on one thread."""
        found = []
        for who, bundle in (("large", large.bundle), ("small", small.bundle)):
            for variant in bundle.manifest.variants:
                self.progress(f"measuring {who} {variant.name}", 0.9)
                model = load_model(bundle, variant=variant.name, bounds=self.task.inputs)
                found.append(
                    side(
                        f"{who} {variant.name}",
                        model,
                        tuning=self.tables["tuning"],
                        test=self.tables["test"],
                        task=self.task,
                    )
                )
        return found

    def _compared(self, small: Model, large: Model) -> list[str]:
        labels = self.tables["tuning"].labels
        ours, theirs = (float((self._said(each, "tuning").answers == labels).mean()) for each in (small, large))
        if theirs >= ours:
            return []
        return [
            f"WARNING: of the tuning rows the large model has {theirs:.1%} right and the small one {ours:.1%}: what escalates "
            "gets no better answer; bring a better large model with --teacher"
        ]

    def _said(self, model: Model, role: Role) -> Said:
        return ask_rows(model, self.tables[role], self.task.inputs)

    def _tensors(self, named: Named, role: Role) -> Tensors:
        inputs = named.architecture.inputs(self.task)
        encoders = encoders_from(inputs, named.architecture.files)
        return self.tables[role].tensors(inputs, self.task.inputs, encoders=encoders)

    def _named(self, who: str) -> Progress:
        return lambda what, share: self.progress(f"{who}: {what}", share)


def _left_out(large: Model) -> list[str]:
    """Why a variant of the teacher is not among the sides."""
    notes = sorted(large.manifest.provenance.items())
    return [
        f"the large model's {name.removeprefix('left-out-')} does not ship: {why}"
        for name, why in notes
        if name.startswith("left-out-")
    ]


def _long_enough(plan: TrainingPlan, rows: Tensors) -> TrainingPlan:
    """The plan, with more epochs where a small data set makes them short."""
    steps = -(-len(np.unique(rows.index[rows.lead])) // plan.subjects)
    return replace(plan, epochs=max(plan.epochs, -(-LEAST_STEPS // steps)))


def _accuracy(module: nn.Module, tensors: Tensors) -> float:
    return float((predict(module, tensors).argmax(1) == tensors.labels).mean())
