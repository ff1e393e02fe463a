"""One learning round: from the store's examples to a candidate that replaces the deployed model, or a refusal in figures.

In order, each step cheaper to fail at than the next: what the large model may teach (refused here, nothing is trained), the
student, its bundle, the gate on gate rows, and last the certificate, on rows that are spent when they are looked at.
"""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from outrider_cloud.clock import now_ms
from outrider_cloud.learning import ledger, rounds
from outrider_cloud.learning.candidate import (
    Asked,
    Base,
    Workshop,
    check_free,
    chosen_update,
    deliver,
    distilled,
    open_base,
    sister_pairs,
)
from outrider_cloud.learning.handing_over import hand_over
from outrider_cloud.learning.lessons import Lessons
from outrider_cloud.learning.material import Learnable, Material, gather, learnable
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.learning.promotion import Margins, judge_round
from outrider_cloud.learning.report import Contest, RoundReport, Spent
from outrider_cloud.learning.trial import compare
from outrider_engine.model import Model
from outrider_export.data import Progress, Table
from outrider_export.distil import DistilPlan
from outrider_export.promises import forecast
from outrider_wire.acceptance import accepted
from outrider_wire.certificate import DEFAULT_COVERAGES
from outrider_wire.errors import RuleRefusalError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """What a round is asked to do."""

    base: Path
    """The deployed bundle; its checkpoint lies beside it."""
    out: Path
    """Where a promoted candidate goes, its checkpoint beside it."""
    seed: int = 0
    threads: int = 1
    distil: DistilPlan = field(default_factory=DistilPlan)
    """Its ``update`` is chosen by `update`."""
    update: Asked = "auto"
    margins: Margins = field(default_factory=Margins)
    deferral: bool = False
    """Whether a deferral score is learnt, at as much training again; it ships only if it ranks errors better than the plain scores."""


def run_round(work: OpenTask, plan: RoundPlan, progress: Progress) -> RoundReport:
    """Runs a round and records it; the report of a refused one says why, in figures.

    Raises:
        RuleRefusalError: there is not even enough to judge by (no labelled tuning rows, …).
        OutriderError: a file, bundle or model cannot be used.
    """
    check_free(plan.out)
    base = open_base(plan.base, work.task, threads=plan.threads)
    begun = partial(rounds.start, task=work.task.name, deployed=base.model.digest, now_ms=now_ms())
    number = work.library.store.submit(begun).result()
    try:
        report = _Round(work=work, plan=plan, base=base, number=number, progress=progress).run()
        if report.state == "promoted" and work.hands_over:
            hand_over(plan.out, store=work.library.store, blobs=work.library.blobs)
    except BaseException as error:  # interrupted too: the store must not say that it still runs
        refused = isinstance(error, RuleRefusalError)
        _end(work, number, "refused" if refused else "failed", None, {"verdict": str(error)})
        raise
    _end(work, number, report.state, report.candidate, msgspec.to_builtins(report))
    log.info("round.ended", extra={"round": number, "task": report.task, "state": report.state})
    return report


def _end(work: OpenTask, number: int, state: rounds.Ended, candidate: str | None, report: object) -> None:
    ended = partial(rounds.finish, number=number, state=state, candidate=candidate, report=report, now_ms=now_ms())
    work.library.store.submit(ended).result()


class _Round:
    def __init__(self, *, work: OpenTask, plan: RoundPlan, base: Base, number: int, progress: Progress) -> None:
        self.work, self.plan, self.base, self.number, self.tell = work, plan, base, number, progress
        self.seconds: dict[str, float] = {}

    def run(self) -> RoundReport:
        with self._stage("preparing"):
            material = gather(self.work, self.base, threads=self.plan.threads, progress=self.tell)
            found = learnable(material, self.work, self.base, self.plan.margins)
        report = self._opening(found)
        if failed := [check.says for check in report.checks if not check.passed]:
            return replace(report, verdict=f"the round is refused: {'; '.join(failed)}")
        self.plan.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.plan.out.name}.", dir=self.plan.out.parent) as folder:
            return self._with_candidate(report, material, found.lessons, Path(folder))

    def _opening(self, found: Learnable) -> RoundReport:
        """The report as it stands before anything is trained."""
        return RoundReport(
            round=self.number,
            task=self.work.task.name,
            state="refused",
            verdict="",
            seed=self.plan.seed,
            targets=self.plan.distil.targets,
            update=chosen_update(self.plan.update, found.counts.confident),
            deployed=self.base.model.digest,
            counts=found.counts,
            confidence=found.confidence,
            checks=judge_round(
                confident=found.counts.confident,
                teacher_accuracy=found.confidence.accuracy,
                measured=found.confidence.rows,
                margins=self.plan.margins,
            ),
            seconds=self.seconds,
        )

    def _with_candidate(self, report: RoundReport, material: Material, lessons: Lessons, folder: Path) -> RoundReport:
        plan = dataclasses.replace(self.plan.distil, update=report.update)
        with self._stage("distilling"):
            student = distilled(self.base, lessons, plan, seed=self.plan.seed, progress=self.tell)
        pairs = None
        if self.plan.deferral:
            with self._stage("learning when to ask"):
                pairs = sister_pairs(
                    self.base,
                    lessons,
                    plan,
                    seed=self.plan.seed,
                    progress=lambda _what, share: self.tell("learning when to ask", share),
                )
        workshop = Workshop(
            base=self.base,
            task=self.work.task,
            tuning=material.tuning.table,
            known=lessons.known,
            behind=material.behind,
            folder=folder,
            seed=self.plan.seed,
        )
        with self._stage("exporting"):
            candidate = workshop.build(
                student,
                pairs=pairs,
                version=f"round-{self.number}",
                progress=lambda _stage, share: self.tell("exporting", share),
            )
        with self._stage("comparing"):
            verdict, contest = compare(
                deployed=self.base.model,
                candidate=candidate,
                material=material,
                work=self.work,
                key=workshop.key,
                margins=self.plan.margins,
            )
        report = replace(
            report,
            candidate=candidate.digest,
            contest=contest,
            deferral=self._learnt(candidate, lessons),
            checks=[*report.checks, *verdict.checks],
            verdict=verdict.sentence,
        )
        if not verdict.promoted:
            return report
        with self._stage("certifying"):
            report = self._certified(report, workshop, material.certification, contest)
        return self._delivered(report, workshop, contest, kept=self._kept(workshop, material))

    def _kept(self, workshop: Workshop, material: Material) -> float:
        """Share of the gate rows that the candidate keeps under its certificate."""
        model = workshop.finished()
        return float(accepted(model.manifest.acceptance, material.gate.ask(model).signals).mean())

    def _learnt(self, candidate: Model, lessons: Lessons) -> str:
        if not self.plan.deferral:
            return ""
        few = f"not learnt: {len(lessons.fresh.tensors)} rows that the deployed bundle sent are too few"
        return candidate.manifest.provenance.get("deferral", few)

    def _certified(self, report: RoundReport, workshop: Workshop, rows: Table | None, contest: Contest) -> RoundReport:
        """With the certificate, where there are rows for one; they are written down as used before they are looked at."""
        coverages = [each for each in DEFAULT_COVERAGES if each <= contest.after.most]
        risk = self.work.task.policy.target_risk
        if rows is None:
            return replace(report, sentences=[f"no certificate: {forecast(0, risk, self.work.task.delta)}"])
        taken = self._take(rows, coverages)
        if not taken.drawn.enough:
            return replace(report, sentences=[f"no certificate: {taken.drawn.shortage(risk)}"])
        drawn, members = taken.drawn, set(taken.drawn.groups)
        used = rows.take(np.flatnonzero([group in members for group in rows.groups]))
        certified = workshop.certify(used, delta=drawn.delta, caps=contest.after.caps)
        digest = workshop.finished().digest
        self.work.library.store.submit(partial(ledger.name_bundle, number=taken.number, bundle=digest)).result()
        return replace(
            report,
            candidate=digest,
            spent=Spent(rows=len(drawn.groups), use=drawn.use, delta=drawn.delta, fresh=drawn.fresh),
            certificate=certified.certificate,
            sentences=certified.sentences,
        )

    def _take(self, rows: Table, coverages: Sequence[float]) -> ledger.Taken:
        task, store, deployed = self.work.task, self.work.library.store, self.base.model
        if (standing := deployed.manifest.certificate) is not None:
            known = partial(
                ledger.recognise,
                task=task.name,
                bundle=deployed.digest,
                certificate=standing,
                groups=rows.groups,
                now_ms=now_ms(),
            )
            store.submit(known).result()
        take = partial(
            ledger.take,
            task=task.name,
            groups=rows.groups,
            risk=task.policy.target_risk,
            delta=task.delta,
            coverages=coverages,
            now_ms=now_ms(),
        )
        return store.submit(take).result()

    def _delivered(self, report: RoundReport, workshop: Workshop, contest: Contest, *, kept: float) -> RoundReport:
        promised = self.base.model.manifest.certificate is not None
        if promised and report.certificate is None:
            why = "; ".join(report.sentences)
            return replace(
                report,
                verdict=f"the candidate is refused: it passes the gate, but the deployed model is certified and it is not: {why}",
            )
        before, after = contest.before, contest.after
        if promised and kept < before.coverage - self.plan.margins.fall:
            return replace(
                report,
                verdict=f"the candidate is refused: it passes the gate, but under its certificate it keeps {kept:.1%} of the gate rows, "
                f"and the deployed model keeps {before.coverage:.1%}",
            )
        deliver(workshop.bundle, self.plan.out)
        verdict = (
            f"the candidate is promoted: kept on the device {before.coverage:.1%} → {kept:.1%}, right as a system "
            f"{before.accuracy:.1%} → {after.accuracy:.1%} of the gate rows; {'; '.join(report.sentences)}"
        )
        return replace(report, state="promoted", bundle=str(self.plan.out), verdict=verdict)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)
