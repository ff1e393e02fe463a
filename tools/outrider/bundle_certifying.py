"""What ``outrider certify BUNDLE`` does behind its flags: the session, the rows by role, the ledger. Prints nothing, loads no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from outrider.certifying import TAUGHT, UNSEEN, opened_task, promise_of
from outrider.row_roles import check_agree, loose_times, roles_named
from outrider.settings_files import read_task
from outrider_cloud.clock import now_ms
from outrider_cloud.learning import ledger
from outrider_cloud.learning.opening import OpenTask
from outrider_engine.bundle import open_bundle
from outrider_engine.model import load_model
from outrider_export.beside import checkpoint_path
from outrider_export.data import Table
from outrider_export.promises import Promise
from outrider_export.recertify import Recertified, recertify, reused, write_copy
from outrider_export.rows import HELD_OUT, check_roles, check_times
from outrider_export.ruling import Ruling, refused
from outrider_export.sources import from_folder, from_jsonl, notes_of
from outrider_wire.certificate import DEFAULT_COVERAGES, reused_delta
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.manifest import LabelSource, Manifest
from outrider_wire.roles import role_of
from outrider_wire.task import Task


@dataclass(frozen=True, kw_only=True)
class Use:
    """What the certification may use, and what it pays."""

    groups: frozenset[str]
    delta: float
    number: int
    """Of the ledger's entry; 0: there is none."""
    notes: list[str]


class BundleCertification:
    """A bundle's rule on its own session and labelled rows. A context manager: it may hold the cloud's store open.

    Args:
        bundle: its directory.
        data: a folder with one sub-folder a class, or JSON lines.
        out: where the certified bundle goes; None: nowhere.
        task_file: the task, where neither the bundle nor a configuration has it.
        config: cloud.toml, whose roles and ledger count; None: neither.
        task_name: of the task in ``config``; '' takes the bundle's.
        seed: splits the rows where there is no configuration; None: the one that the bundle was made with.
        min_gap_s: rows nearer in time need a group.
    """

    def __init__(
        self,
        *,
        bundle: Path,
        data: Path,
        out: Path | None,
        task_file: Path | None,
        config: Path | None,
        task_name: str,
        seed: int | None,
        min_gap_s: float,
    ) -> None:
        self._bundle, self._data, self._out = bundle, data, out
        self._asked_seed, self._min_gap_s = seed, min_gap_s
        self._task_file, self._config, self._task_name = task_file, config, task_name
        self._stack = ExitStack()
        self._work: OpenTask | None = None

    def __enter__(self) -> Self:
        """Opens the bundle, the configuration and the rows.

        Raises:
            OutriderError: one of them cannot be used.
        """
        try:
            manifest = open_bundle(self._bundle).manifest
            if self._config is not None:
                self._work = self._stack.enter_context(opened_task(self._config, self._task_name or manifest.task))
            self.task = task_of(self._bundle, self._task_file, self._work)
            self.model = load_model(self._bundle, bounds=self.task.inputs)
            self._seed = seed_of(manifest) if self._asked_seed is None else self._asked_seed
        except BaseException:  # interrupted too: __exit__ is not called for what never entered
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the store."""
        self._stack.close()

    def certify(self, *, risk: float | None, delta: float | None, label_source: LabelSource) -> tuple[Ruling, str]:
        """The ruling, and the digest of the bundle that was written ('' where none was). It uses the rows up, in the ledger too."""
        promise = promise_of(risk, delta, label_source, self.task)
        try:
            use, found = self._run(promise)
        except RuleRefusalError as error:
            return refused(error, promise), ""
        if self._out is None or not found.ruling.valid:
            return found.ruling, ""
        digest = write_copy(self._bundle, self._out, found.manifest, found.items)
        if self._work is not None and use.number:
            self._work.library.store.submit(partial(ledger.name_bundle, number=use.number, bundle=digest)).result()
        return found.ruling, digest

    def _run(self, promise: Promise) -> tuple[Use, Recertified]:
        tables = self._split()
        use = self._allowed(tables["certification"], promise)
        rows = [row for row, group in enumerate(tables["certification"].groups) if group in use.groups]
        found = recertify(
            model=self.model,
            task=self.task,
            tuning=tables["tuning"],
            certification=tables["certification"].take(rows),
            promise=Promise(risk=promise.risk, delta=use.delta, label_source=promise.label_source),
            key=f"certify-{self._seed}",
        )
        notes = [*use.notes, *_lost(self.task, found.manifest)]
        return use, dataclasses.replace(found, ruling=replace(found.ruling, warnings=[*notes, *found.ruling.warnings]))

    def _split(self) -> Mapping[str, Table]:
        folder = self._data.is_dir()
        table = (from_folder if folder else from_jsonl)(self._data, self.task)
        roles: Sequence[str] = [self._role(group) for group in table.groups]
        if not folder:
            notes = notes_of(self._data)
            check_times(loose_times(notes, self._data), grouped=False, min_gap_s=self._min_gap_s)
            named = roles_named(notes, self._data)
            if named and self._work is not None:
                check_agree(table.groups, named, roles)
            roles = named or roles
        check_roles(table.groups, roles, "group", "give every group one role")
        tables = {}
        for role in ("tuning", "certification"):
            mine = [row for row, own in enumerate(roles) if own == role and table.labels[row] >= 0]
            if not mine:
                raise RuleRefusalError(
                    f"there are no labelled {role} rows", reason="no_rows", fix="bring more labelled groups with --data"
                )
            tables[role] = table.take(mine)
        return tables

    def _role(self, group: str) -> str:
        if self._work is not None:
            return role_of(group, key=self._work.key, shares=self._work.shares)
        return role_of(group, key=f"export-{self._seed}", shares=HELD_OUT)

    def _allowed(self, certification: Table, promise: Promise) -> Use:
        if self._work is not None:
            return self._taken(self._work, certification, promise)
        groups = frozenset(certification.groups)
        taught = [TAUGHT] if trained_here(self.model.manifest, self._bundle) else []
        if not reused(self.model.manifest, certification):
            return Use(groups=groups, delta=promise.delta, number=0, notes=[UNSEEN, *taught])
        paid = reused_delta(promise.delta, 2)
        again = f"these very rows made the bundle's certificate: this second use pays δ = {paid:.4g}; {UNSEEN}"
        return Use(groups=groups, delta=paid, number=0, notes=[again, *taught])

    def _taken(self, work: OpenTask, certification: Table, promise: Promise) -> Use:
        task, groups, certificate = self.task.name, list(certification.groups), self.model.manifest.certificate
        if certificate is not None:
            known = partial(
                ledger.recognise,
                task=task,
                bundle=self.model.digest,
                certificate=certificate,
                groups=groups,
                now_ms=now_ms(),
            )
            work.library.store.submit(known).result()
        take = partial(
            ledger.take,
            task=task,
            groups=groups,
            risk=promise.risk,
            delta=promise.delta,
            coverages=DEFAULT_COVERAGES,
            now_ms=now_ms(),
        )
        number, drawn = work.library.store.submit(take).result()
        if not drawn.enough:
            raise RuleRefusalError(
                drawn.shortage(promise.risk), reason="too_few_rows", fix="label fresh rows of the certification role"
            )
        used = f"ledger: use {drawn.use} of these rows, {drawn.fresh} groups fresh; it pays δ = {drawn.delta:.4g}"
        return Use(groups=frozenset(drawn.groups), delta=drawn.delta, number=number, notes=[used])


def seed_of(manifest: Manifest) -> int:
    """The seed that a bundle was made with: it split the rows of its export, so that no tuning group may certify; else 0."""
    try:
        return int(manifest.provenance.get("seed", "0"))
    except ValueError:
        return 0


def trained_here(manifest: Manifest, bundle: Path) -> bool:
    """Whether a round or a fit may have made it: it names the bundle before it, or its weights lie beside it."""
    return manifest.parent is not None or (bool(manifest.architecture) and checkpoint_path(bundle.resolve()).is_file())


def task_of(bundle: Path, file: Path | None, work: OpenTask | None) -> Task:
    """The task that a bundle answers: the configuration's, else a file's, else the one in the bundle.

    Raises:
        OperatorConfigError: there is none.
    """
    if work is not None:
        return work.task
    if file is None and not (bundle / "task.toml").is_file():
        raise OperatorConfigError(
            f"{bundle} does not carry its task", reason="no_task", fix="add --task-file, or --config and --task"
        )
    return read_task(file or bundle / "task.toml")


def _lost(task: Task, after: Manifest) -> list[str]:
    """What the task promises and the new certificate does not."""
    if task.policy.target_gap is None or after.certificate is None or after.certificate.system is not None:
        return []
    return [
        f"the task also promises a gap of at most {task.policy.target_gap:.3g} to the large model; this certificate does not, "
        "because the large model was not asked"
    ]
