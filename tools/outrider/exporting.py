"""From what a person names on the command line to a bundle: finds the model, splits the rows, builds. Trains nothing.

Loads torch: import it only to export.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from outrider.progress import Tell
from outrider.wanted import Wanted
from outrider_engine.tokenizing import encoders_from
from outrider_export.build import BuildReport, build_bundle
from outrider_export.candidates import measure_candidates
from outrider_export.checkpoint import checkpoint_path, load_checkpoint
from outrider_export.copies import without_copies
from outrider_export.data import Table
from outrider_export.first_look import first_look
from outrider_export.fixed_shapes import needs_fixed_shapes
from outrider_export.front import Candidate, pareto_front, pick
from outrider_export.huggingface.folder import is_checkpoint
from outrider_export.named import Named, find_named
from outrider_export.pipelines import refuse_pickle
from outrider_export.promises import forecast
from outrider_export.rows import HELD_OUT
from outrider_export.sources import from_folder, from_jsonl, from_pile
from outrider_export.students import ARCHITECTURES, find_architecture, new_module
from outrider_export.variants import Variants
from outrider_wire.errors import BundleUnsafeError, CallerUnknownError, OperatorConfigError, RuleRefusalError
from outrider_wire.groups import usable_rows
from outrider_wire.limits import MODEL_BYTES
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.profile import Profile
from outrider_wire.roles import Role, Shares, role_of
from outrider_wire.task import Task

WITH_A_HEAD = Shares(train=0.4, tuning=0.2, gate=0.0, certification=0.4, test=0.0)
"""How rows are split where the model is an encoder, whose head some of them train."""


@dataclass(kw_only=True)
class Choice:
    """What came of picking one."""

    candidates: list[Candidate] = field(default_factory=list)
    picked: str = ""

    @property
    def front(self) -> list[str]:
        """Names of those worth choosing."""
        return [each.name for each in pareto_front(self.candidates)]


class Export:
    """One export, step by step: `forecast` tells what the rows can certify before `build` looks at them.

    Args:
        source: a ``.safetensors`` checkpoint, a bundle's directory (its checkpoint lies beside it), an ``.onnx`` file, a Hugging
            Face checkpoint's directory, or ``module:attribute`` (a torch module, or a fitted scikit-learn pipeline).
        task: what the model answers.
        data: labelled rows that the model was not trained on: a folder with one sub-folder a class, or a JSON-lines file.
        reads: name of the architecture whose inputs an ``.onnx`` file reads.
        calibrate: inputs, labelled or not, that the support distance is fitted on: a folder of files, or a JSON-lines file; those that
            choose or certify are left out of it. None: the tuning rows of ``data``.
        seed: splits the rows, and chooses each group's row.

    Raises:
        OutriderError: the model or the data cannot be used, or ``calibrate`` holds nothing but rows that choose or certify.
    """

    def __init__(
        self, *, source: str, task: Task, data: Path, reads: str = "", calibrate: Path | None = None, seed: int = 0
    ) -> None:
        self._task = task
        self._seed = seed
        named = find_model(source, task, reads)
        self._architecture = named.architecture
        self._shares = WITH_A_HEAD if named.finish is not None else HELD_OUT
        rows = read_rows(data, task)
        self.tuning, self.certification = self._of(rows, "tuning"), self._of(rows, "certification")
        self._known = self._unseen(calibrate) if calibrate else None
        self._model = self._finished(named, rows)

    def forecast(self) -> str:
        """What the certification rows can certify at best, in a sentence."""
        rows, most = usable_rows(self.certification.groups)
        return forecast(rows, self._task.policy.target_risk, self._task.delta, rows_a_group=most)

    def build(
        self,
        out: Path,
        *,
        version: str,
        wanted: Wanted,
        label_source: str,
        tell: Tell,
        embedding: bool = False,
        items: bool = True,
    ) -> tuple[BuildReport, Choice]:
        """Writes the bundle ``out``. Errors as `outrider_export.build.build_bundle`."""
        choice = Choice()

        def chosen(made: Variants, strata: Sequence[str], fitted_here: bool) -> list[str]:
            if wanted.objective is None:
                return [each.name for each in made.variants]
            choice.candidates = measure_candidates(
                made, risk=self._task.policy.target_risk, strata=strata, support_fitted_here=fitted_here, tell=tell
            )
            choice.picked = pick(choice.candidates, wanted.objective).name
            return [choice.picked]

        built = build_bundle(
            task=self._task,
            model=self._model,
            architecture=self._architecture,
            tuning=self.tuning,
            certification=self.certification,
            support=self._known,
            out=out,
            version=version,
            seed=self._seed,
            precisions=wanted.names,
            forced=wanted.forced,
            fixed_for=_fixed_for(wanted.profile),
            choose=chosen,
            label_source="large_model" if label_source == "large_model" else "ground_truth",
            embedding=embedding or self._task.memory.enabled,
            items=items,
            progress=tell,
        )
        return built, choice

    def _finished(self, named: Named, rows: Table) -> nn.Module | bytes:
        """The model; an encoder gets its head from rows that neither choose nor certify."""
        if named.finish is not None:
            inputs = named.architecture.inputs(self._task)
            encoders = encoders_from(inputs, named.architecture.files)
            return named.finish(self._of(rows, "train").tensors(inputs, self._task.inputs, encoders=encoders))
        return named.model or new_module(named.architecture, self._task, seed=0).eval()

    def _unseen(self, calibrate: Path) -> Table:
        """What nothing is judged on: a distance that was fitted on the rows that certify it would take them for known."""
        found = without_copies(read_inputs(calibrate, self._task), self.tuning, self.certification)
        if not len(found):
            raise RuleRefusalError(
                f"every input of {calibrate} is among the rows that choose or certify",
                reason="roles_overlap",
                fix="give --calibrate other inputs, or leave it out: the support distance is then fitted on the rows that choose",
            )
        return found

    def _of(self, rows: Table, role: Role) -> Table:
        key = f"export-{self._seed}"
        mine = [
            row
            for row, (group, label) in enumerate(zip(rows.groups, rows.labels, strict=True))
            if label >= 0 and role_of(group, key=key, shares=self._shares) == role
        ]
        if not mine:
            raise RuleRefusalError(
                f"there are no labelled rows for {role}", reason="no_rows", fix="bring more labelled groups with --data"
            )
        return rows.take(np.asarray(mine, np.int64))


def _fixed_for(profile: Profile | None) -> str:
    """Who needs axes of fixed sizes there; '' for nobody."""
    if profile is None or not (who := needs_fixed_shapes(profile.runtime.providers)):
        return ""
    return f"{who} of profile {profile.name}"


def find_model(source: str, task: Task, reads: str) -> Named:
    """The model that a person named, with what it reads.

    Raises:
        CallerUnknownError: there is no such file.
        OperatorConfigError: it is nothing that can be exported.
        BundleUnsafeError: an ONNX file that no device would load, or that does not survive its first load.
    """
    path = Path(source)
    if path.suffix == ".onnx":
        if not reads:
            raise OperatorConfigError(
                f"{source} does not say how inputs become its tensors",
                reason="unknown_inputs",
                fix=f"add --reads with {', '.join(ARCHITECTURES)}, or your own Architecture as module:attribute",
            )
        data = _read(path)
        first_look(data)
        return Named(architecture=find_architecture(reads), model=data)
    if path.suffix == ".safetensors" or (path / MANIFEST_FILE).is_file():
        checkpoint = path if path.suffix == ".safetensors" else checkpoint_path(path.resolve())
        module, architecture = load_checkpoint(checkpoint, task)
        return Named(architecture=architecture, model=module)
    refuse_pickle(source)
    if ":" not in source and not is_checkpoint(source.partition("#")[0]):
        raise OperatorConfigError(
            f"{source!r} is no model",
            reason="unknown_model",
            fix="name a .safetensors checkpoint, a bundle's directory, a Hugging Face checkpoint's directory, "
            "an .onnx file, or module:attribute",
        )
    return find_named(source, task)


def read_rows(data: Path, task: Task) -> Table:
    """The rows of a folder (one sub-folder a class) or of a JSON-lines file."""
    return from_folder(data, task) if data.is_dir() else from_jsonl(data, task)


def read_inputs(where: Path, task: Task) -> Table:
    """Inputs whose labels do not count: the files of a folder and its sub-folders, or the rows of a JSON-lines file."""
    return from_jsonl(where, task) if where.is_file() else from_pile(where, task)


def _read(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MODEL_BYTES:
            raise BundleUnsafeError(
                f"{path} has {size} bytes, more than {MODEL_BYTES}",
                reason="model_too_large",
                fix="this is a model for the cloud: distil a small one from it with outrider distill fit",
            )
        return path.read_bytes()
    except OSError as error:
        raise CallerUnknownError(
            f"{path} cannot be read: {error.strerror}", reason="unreadable_file", fix="name an ONNX file"
        ) from error
