"""Everything one round starts from: the store's rows by role, and what the models in force say of them. Judges nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from outrider_cloud.answering.strategies import STRATEGIES
from outrider_cloud.config import TaskSettings
from outrider_cloud.learning.asking import Rows
from outrider_cloud.learning.candidate import Base
from outrider_cloud.learning.lessons import Counts, Lessons, choose_rows, make_lessons, measure_teacher
from outrider_cloud.learning.library import Library, Shelf
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.learning.promotion import Margins
from outrider_cloud.learning.teacher import Confidence
from outrider_engine.bundle import open_bundle
from outrider_engine.model import Model, load_model
from outrider_export.asking import Said
from outrider_export.certify import Behind, Probabilities, behind_model
from outrider_export.copies import check_copies
from outrider_export.data import Progress, Table
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.steps import bounds_of


@dataclass(frozen=True, kw_only=True)
class Material:
    """What was read and asked."""

    train: Shelf
    tuning: Rows
    gate: Rows
    certification: Table | None
    """None: there are no such rows, and nobody was promised anything yet."""
    behind: Behind
    large_tuning: Said
    large_gate: Said
    deployed_tuning: Said
    deployed_gate: Said


@dataclass(frozen=True, kw_only=True)
class Learnable:
    """What may be learnt, and the figures by which a round is let begin."""

    confidence: Confidence
    counts: Counts
    lessons: Lessons


def gather(work: OpenTask, base: Base, *, threads: int, progress: Progress) -> Material:
    """Reads the store, and asks the large and the deployed model about every tuning and gate row.

    Raises:
        RuleRefusalError: there are no rows of a role that is needed, or an input may be both tuned and certified on.
        OperatorConfigError: the task's large model has nothing to teach.
        BundleError: its bundle cannot be used.
    """
    library, bounds = work.library, work.task.inputs
    large = _large(work, threads)
    tuning, gate = (Rows(table=library.labelled(role), bounds=bounds) for role in ("tuning", "gate"))
    train = library.load("train")
    certification = _certification(library, needed=base.model.manifest.certificate is not None)
    if certification is not None:
        check_copies(tuning.table, certification)
    what = "asking both models"
    progress(what, 0.0)
    material = Material(
        train=train,
        tuning=tuning,
        gate=gate,
        certification=certification,
        behind=_behind(work, large),
        large_tuning=tuning.ask(large),
        large_gate=gate.ask(large),
        deployed_tuning=tuning.ask(base.model),
        deployed_gate=gate.ask(base.model),
    )
    progress(what, 1.0)
    return material


def learnable(material: Material, work: OpenTask, base: Base, margins: Margins) -> Learnable:
    """Measures the teacher, and chooses and prepares what is learnt from."""
    confidence, tuning_refused = measure_teacher(
        large=material.large_tuning,
        deployed=material.deployed_tuning,
        model=base.model,
        labels=material.tuning.table.labels,
        accuracy=margins.teacher_accuracy,
        least_rows=margins.measured_rows,
    )
    chosen = choose_rows(
        material.train,
        large_model=material.behind.name,
        deployed=base.model.digest,
        confidence=confidence,
    )
    lessons = make_lessons(
        material.train,
        chosen=chosen,
        confidence=confidence,
        model=base.model,
        bounds=work.task.inputs,
    )
    counts = Counts(
        train=len(material.train.table),
        escalated=chosen.escalated,
        other_large_model=chosen.other_large_model,
        confident=len(chosen.confident),
        rehearsed=len(lessons.sure.tensors),
        labelled=len(lessons.labelled),
        tuning=len(material.tuning),
        tuning_refused=tuning_refused,
        gate=len(material.gate),
        gate_groups=len(set(material.gate.table.groups)),
        certification=len(set(material.certification.groups)) if material.certification else 0,
    )
    return Learnable(confidence=confidence, counts=counts, lessons=lessons)


def _certification(library: Library, *, needed: bool) -> Table | None:
    try:
        return library.labelled("certification")
    except RuleRefusalError as error:
        if error.reason != "no_examples" or needed:
            raise
        return None


def _behind(work: OpenTask, large: Model) -> Behind:
    settings, task = work.settings, work.task
    if task.policy.target_gap is not None and (unseen := _unseen(settings)):
        raise OperatorConfigError(
            f"task {task.name} promises a gap of the whole system, and a round does not see what {unseen} does to it",
            reason="system_not_seen",
            fix=f"leave {unseen} out of cloud.toml, or target_gap out of the task",
        )

    def combine(theirs: Probabilities, ours: Probabilities) -> Probabilities:
        strategy = STRATEGIES[settings.strategy]
        return np.array(
            [strategy.combine(*pair, settings.terms) for pair in zip(theirs.tolist(), ours.tolist(), strict=True)]
        )

    return replace(behind_model(large, task.inputs), strategy=settings.strategy, combine=combine)


def _unseen(settings: TaskSettings) -> str:
    """A setting under which the served system is another one than what rows of the store are judged by; '' where there is none."""
    if settings.strategy == "transfer":
        return "transfer"
    return "fuse_with" if settings.fuse_with else "grades" if settings.grades else ""


def _large(work: OpenTask, threads: int) -> Model:
    kind, _, folder = work.settings.large.partition(":")
    if kind != "onnx":
        raise OperatorConfigError(
            f"a round asks an expert bundle about labelled rows, and the large model of task {work.task.name} is "
            f"{work.settings.large}",
            reason="no_teacher",
            fix='name an expert bundle in cloud.toml: large = "onnx:DIR"',
        )
    bundle = open_bundle(Path(folder))
    return load_model(bundle, threads=threads, bounds=bounds_of(work.task, bundle.manifest.inputs))
