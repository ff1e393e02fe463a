"""The demo's two models: trained once a seed, kept, and judged alone on the test questions. Plays nothing."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outrider.demo.dataset import Question, question_only_accuracy
from outrider.demo.figures import Curve, shunt_curve
from outrider.demo.world import World
from outrider.progress import Tell
from outrider_engine.model import load_model
from outrider_export.asking import ask_rows
from outrider_export.data import Progress, Table
from outrider_wire.acceptance import accepted, supported_scores

if TYPE_CHECKING:
    import torch

LARGE, SMALL = "image-text-large", "image-text-small"


@dataclass(frozen=True, kw_only=True)
class Models:
    """The bundles, and what was found on the way."""

    large: Path
    small: Path
    """Its checkpoint lies beside it."""
    strength: float
    """λ of the fusion, fitted on the tuning rows that the small model refuses."""
    imported: list[Question]
    """Labelled questions that the cloud's store starts with."""
    sentences: list[str]


class Seen(NamedTuple):
    """What one model says of some rows."""

    probabilities: NDArray[np.float64]
    """(rows, labels)"""
    scores: NDArray[np.float64]
    """(rows,) −inf where the support distance refuses."""
    accepted: NDArray[np.bool_]
    right: NDArray[np.bool_]


def look(bundle: Path, table: Table) -> Seen:
    """Runs a bundle over a table, as the device would."""
    model = load_model(bundle, threads=2)
    said = ask_rows(model, table)
    rule = model.manifest.acceptance
    return Seen(
        said.probabilities,
        supported_scores(rule, said.signals),
        accepted(rule, said.signals),
        said.answers == table.labels,
    )


def make_models(world: World, folder: Path, tell: Tell, *, threads: int = 2) -> Models:
    """Trains, exports and certifies both models on ``threads`` threads, or takes them from ``folder`` if this seed's are there."""
    home = folder / f"seed-{world.seed}-{_recipe(world)}"
    large, small, notes = home / "large", home / "small", home / "notes.json"
    if not notes.is_file():
        import torch

        torch.set_num_threads(threads)
        home.mkdir(parents=True, exist_ok=True)
        _train_large(world, large, _named(tell, "large model"))
        sentences = _train_small(world, small, large, _named(tell, "small model"))
        notes.write_text(json.dumps({"strength": _fit_strength(world, large, small), "sentences": sentences}))
    known = json.loads(notes.read_text())
    labelled = (*world.deal.labelled, *world.deal.tuning, *world.deal.gate)
    return Models(
        large=large,
        small=small,
        strength=known["strength"],
        imported=world.questions((*labelled, *world.certification(first=False))),
        sentences=known["sentences"],
    )


def _recipe(world: World) -> str:
    """Changes when the version, the task or the way a model is trained does."""
    from outrider_export.students import ARCHITECTURES

    made_of = [
        version("outrider"),
        repr(world.task),
        *(repr(ARCHITECTURES[name].plan) for name in (LARGE, SMALL)),
    ]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:8]


def _named(tell: Tell, name: str) -> Progress:
    return lambda what, share: tell(f"{name}: {what}", share)


def _train_large(world: World, out: Path, progress: Progress) -> None:
    from outrider_export.build import build_bundle, rather
    from outrider_export.students import find_architecture

    questions = world.questions(world.deal.large)
    build_bundle(
        task=world.task,
        model=_trained(world, LARGE, questions, progress, clean=True),
        architecture=find_architecture(LARGE),
        tuning=world.table(world.questions(world.deal.tuning)),
        certification=None,
        out=out,
        version="large-1",
        seed=world.seed,
        precisions=("int8", "fp32"),
        choose=rather(["int8"]),
        progress=progress,
    )


def _train_small(world: World, out: Path, large: Path, progress: Progress) -> list[str]:
    from outrider_export.build import build_bundle, rather
    from outrider_export.certify import behind_model
    from outrider_export.students import find_architecture

    questions = world.questions(world.deal.labelled)
    report = build_bundle(
        task=world.task,
        model=_trained(world, SMALL, questions, progress, clean=False),
        architecture=find_architecture(SMALL),
        tuning=world.table(world.questions(world.deal.tuning)),
        certification=world.table(world.questions(world.certification(first=True))),
        support=world.table(questions),
        behind=behind_model(load_model(large, threads=2)),
        out=out,
        version="small-1",
        seed=world.seed,
        precisions=("int8", "fp32"),
        choose=rather(["int8"]),
        progress=progress,
    )
    return list(report.sentences)


def _trained(
    world: World, name: str, questions: list[Question], progress: Progress, *, clean: bool
) -> "torch.nn.Module":
    from outrider_export.students import find_architecture, new_module
    from outrider_export.training import train

    architecture = find_architecture(name)
    tensors = world.table(questions, clean=clean).tensors(architecture.inputs(world.task), world.task.inputs)
    module = new_module(architecture, world.task, seed=world.seed)
    # A shape's mirror image has the same answers, which helps where pictures are few. Without auxiliary heads the large
    # model sits on the question-only plateau for minutes; the small one trains as well without, and is better calibrated.
    large = name == LARGE
    auxiliary = world.auxiliary(questions) if large else []
    plan = architecture.plan if large else architecture.plan.mirrored()
    train(module, tensors, plan, seed=world.seed, auxiliary=auxiliary, progress=progress)
    return module


def _fit_strength(world: World, large: Path, small: Path) -> float:
    from outrider_cloud.answering.strategies import fit_lambda

    table = world.table(world.questions(world.deal.tuning))
    theirs, ours = look(large, table), look(small, table)
    hard = ~ours.accepted
    return fit_lambda(theirs.probabilities[hard], ours.probabilities[hard], table.labels[hard])


class Judge:
    """Both models alone, on test questions: what the system is measured against."""

    def __init__(self, world: World, models: Models) -> None:
        self._world = world
        self._models = models
        self._look = functools.cache(self._looked)

    def small_accuracy(self, bundle: Path, questions: Sequence[Question]) -> float:
        """Accuracy of a small model that answers everything itself."""
        return float(self._look(bundle, tuple(questions)).right.mean())

    def large_accuracy(self, questions: Sequence[Question]) -> float:
        """Accuracy of the large model that is asked everything."""
        return float(self._look(self._models.large, tuple(questions)).right.mean())

    def majority_accuracy(self, questions: Sequence[Question]) -> float:
        """Accuracy without looking at a picture."""
        return question_only_accuracy(self._world.questions(self._world.deal.large), questions)

    def curve(self, bundle: Path, questions: Sequence[Question]) -> Curve:
        """Accuracy against calls at every coverage of that small model's shunt."""
        small = self._look(bundle, tuple(questions))
        return shunt_curve(small.scores, small.right, self._look(self._models.large, tuple(questions)).right)

    def _looked(self, bundle: Path, questions: tuple[Question, ...]) -> Seen:
        return look(bundle, self._world.table(list(questions)))
