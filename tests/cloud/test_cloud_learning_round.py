"""A learning round, for real: small networks, a real store, real bundles; promoted, refused, and what each leaves behind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from learning_world import KEY, TASK, World, escalate, fill, inputs, make_world, of_role, open_world

from outrider_cloud.learning.candidate import distilled, open_base, sister_pairs
from outrider_cloud.learning.lessons import Lessons, choose_rows
from outrider_cloud.learning.material import gather, learnable
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.learning.promotion import Margins
from outrider_cloud.learning.report import RoundReport
from outrider_cloud.learning.round import RoundPlan, run_round
from outrider_cloud.learning.teacher import Confidence
from outrider_cloud.store.schema import certifications, certified_groups, examples, release_files, releases, rounds
from outrider_engine.bundle import open_bundle
from outrider_engine.golden import check_golden
from outrider_engine.model import load_model
from outrider_export.data import Table
from outrider_export.deferral import make_pairs
from outrider_export.distil import DistilPlan, Taught
from outrider_wire.certificate import reused_delta
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, RuleRefusalError
from outrider_wire.roles import DEFAULT_SHARES

LENIENT = Margins(retention=0.95)
"""The world's first model was shown 90 pictures: what it has right is partly luck, and not all of it stays."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("learning"))


@pytest.fixture(scope="module")
def work(world: World) -> Iterator[OpenTask]:
    with open_world(world, "cloud") as opened:
        fill(opened, world)
        yield opened


def learn(work: OpenTask, world: World, out: str, *, margins: Margins = LENIENT, deferral: bool = True) -> RoundReport:
    plan = RoundPlan(base=world.base, out=world.folder / out, update="full", margins=margins, deferral=deferral)
    return run_round(work, plan, lambda *_: None)


@pytest.fixture(scope="module")
def promoted(work: OpenTask, world: World) -> RoundReport:
    """A round of a cloud that releases what is promoted."""
    return learn(replace(work, hands_over=True), world, "round-1")


@pytest.fixture(scope="module")
def again(work: OpenTask, world: World, promoted: RoundReport) -> RoundReport:
    """A second round on the same store."""
    return learn(work, world, "round-2")


def rows(work: OpenTask, query: sa.Select) -> list:  # type: ignore[type-arg]  # rows of any columns
    return list(work.library.store.run(lambda connection: connection.execute(query).all()))


def test_a_round_with_a_strong_teacher_makes_a_student_that_keeps_more_and_answers_no_worse(
    promoted: RoundReport,
) -> None:
    assert promoted.state == "promoted", promoted.verdict
    assert promoted.contest is not None
    before, after = promoted.contest.before, promoted.contest.after
    assert after.small_accuracy > before.small_accuracy + 0.1
    assert after.coverage > before.coverage + 0.1
    assert after.accuracy >= before.accuracy - LENIENT.fall
    assert max(before.risk, after.risk) <= 0.1
    assert f"{before.coverage:.1%} → {after.coverage:.1%}" in promoted.verdict


def test_a_round_with_few_fresh_rows_says_that_it_did_not_learn_when_to_ask(
    promoted: RoundReport, world: World
) -> None:
    assert (
        promoted.deferral == f"not learnt: {promoted.counts.escalated} rows that the deployed bundle sent are too few"
    )
    assert open_bundle(world.folder / "round-1").manifest.outputs.deferral is None


def test_a_promoted_bundle_is_whole_certified_no_wider_than_judged_and_names_its_parent(
    promoted: RoundReport, world: World
) -> None:
    model = load_model(world.folder / "round-1")
    assert model.digest == promoted.candidate
    assert model.manifest.parent == open_bundle(world.base).digest == promoted.deployed
    assert (model.certified, check_golden(model)) == ("", [])
    assert (world.folder / "round-1.safetensors").is_file()
    assert promoted.contest is not None and promoted.contest.after.thresholds
    assert model.manifest.acceptance.threshold is not None
    assert model.manifest.acceptance.threshold >= promoted.contest.after.thresholds[""] - 1e-9
    assert model.manifest.certificate == promoted.certificate


def test_the_round_is_recorded_with_its_figures(promoted: RoundReport, work: OpenTask) -> None:
    found = rows(work, sa.select(rounds).where(rounds.c.id == promoted.round))[0]
    assert (found.state, found.deployed, found.candidate) == ("promoted", promoted.deployed, promoted.candidate)
    assert found.report["counts"]["confident"] == promoted.counts.confident
    assert found.report["verdict"] == promoted.verdict
    assert found.finished_ms >= found.started_ms


def test_certification_rows_are_of_no_other_role_and_used_once(promoted: RoundReport, work: OpenTask) -> None:
    used = {group for (group,) in rows(work, sa.select(certified_groups.c.group))}
    others = {group for (group,) in rows(work, sa.select(examples.c.group).where(examples.c.role != "certification"))}
    assert used and not used & others
    assert promoted.spent is not None
    assert (promoted.spent.use, promoted.spent.delta) == (1, world_delta(work))
    assert promoted.spent.rows == promoted.spent.fresh == promoted.counts.certification


def test_a_second_round_on_the_same_certification_rows_pays_for_the_second_use(
    again: RoundReport, work: OpenTask
) -> None:
    assert again.spent is not None
    assert (again.spent.use, again.spent.fresh) == (2, 0)
    assert again.spent.delta == reused_delta(world_delta(work), 2)
    assert again.certificate is None or again.certificate.delta == again.spent.delta
    ledger = rows(work, sa.select(certifications).order_by(certifications.c.id))
    assert [entry.use for entry in ledger] == [1, 2]
    assert [entry.bundle for entry in ledger][1] == again.candidate


def test_what_is_promoted_is_handed_over_where_that_is_asked_for_and_nowhere_else(
    promoted: RoundReport, again: RoundReport, work: OpenTask
) -> None:
    assert [digest for (digest,) in rows(work, sa.select(releases.c.digest))] == [promoted.candidate]
    assert again.candidate != promoted.candidate
    for sha256, size in rows(work, sa.select(release_files.c.sha256, release_files.c.size)):
        path = work.library.blobs.find(sha256)
        assert path is not None and path.stat().st_size == size


def world_delta(work: OpenTask) -> float:
    return work.task.delta


def test_a_candidate_that_cannot_be_certified_does_not_replace_a_certified_model(world: World) -> None:
    with open_world(world, "few-certification-rows") as work:
        fill(work, world, certification=15)
        report = learn(work, world, "uncertified")
        assert report.state == "refused"
        assert (
            "deployed model is certified" in report.verdict and "15 certification rows cannot certify" in report.verdict
        )
        assert rows(work, sa.select(certified_groups)) == [], "rows that can certify nothing are not used up"
    assert not (world.folder / "uncertified").exists()


def test_a_teacher_that_is_wrong_is_refused_before_anything_is_trained_with_the_figures(world: World) -> None:
    with open_world(world, "wrong-teacher", large="sees-red") as work:
        fill(work, world)
        report = learn(work, world, "never", margins=Margins(confident_rows=100))
    assert (report.state, report.candidate, report.contest) == ("refused", None, None)
    failed = {check.name for check in report.checks if not check.passed}
    assert failed == {"teacher_accuracy"}
    assert f"right {report.confidence.accuracy:.1%} of the time" in report.verdict and "93%" in report.verdict
    assert list(report.seconds) == ["preparing"]


def test_too_few_confident_answers_are_refused_with_the_figures(world: World, work: OpenTask) -> None:
    report = learn(work, world, "never", margins=Margins(confident_rows=5000))
    assert report.state == "refused"
    assert f"answered {report.counts.confident} escalated inputs confidently, and 5000 are needed" in report.verdict
    assert not (world.folder / "never").exists()


def test_answers_of_another_large_model_are_left_out(world: World) -> None:
    with open_world(world, "other-teacher") as work:
        fill(work, world)
        rename = sa.update(examples).where(examples.c.source == "escalation").values(teacher_model="large@before")
        work.library.store.submit(lambda connection: connection.execute(rename)).result()
        report = learn(work, world, "never")
    assert report.counts.escalated == 0
    assert report.counts.other_large_model > 250


def test_a_store_without_labelled_rows_refuses_and_says_what_to_import(world: World) -> None:
    with open_world(world, "empty") as work:
        with pytest.raises(RuleRefusalError, match="outrider data import"):
            learn(work, world, "never")
        assert [row.state for row in rows(work, sa.select(rounds))] == ["refused"]


def test_an_input_in_two_roles_is_refused_before_anything_is_trained_or_written_down_as_used(world: World) -> None:
    with open_world(world, "copied") as work:
        fill(work, world)
        copied, other = (of_role(world.labelled, role)[0] for role in ("tuning", "certification"))
        copy = replace(copied, group=other.group)
        work.library.add(Table.from_examples([copy]), key=KEY, shares=DEFAULT_SHARES, now_ms=2)
        with pytest.raises(RuleRefusalError, match="1 input"):
            learn(work, world, "never")
        assert rows(work, sa.select(certified_groups)) == []


def test_a_folder_that_is_no_bundle_is_not_overwritten(world: World, work: OpenTask) -> None:
    (world.folder / "taken").mkdir()
    (world.folder / "taken" / "diary.txt").write_text("mine")
    with pytest.raises(OperatorSetupError, match="not a bundle"):
        learn(work, world, "taken")


def test_a_base_without_its_checkpoint_is_refused(world: World, work: OpenTask, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(world.base, tmp_path / "small")
    with pytest.raises(OperatorConfigError, match="not a checkpoint"):
        run_round(work, RoundPlan(base=tmp_path / "small", out=tmp_path / "out"), lambda *_: None)


def test_the_command_prints_the_report_and_exits_with_3_when_the_round_is_refused(world: World) -> None:
    with open_world(world, "command", large="sees-red") as work:
        fill(work, world)
    command = [
        sys.executable, "-m", "outrider", "distill", "run", "--task", TASK, "--base", str(world.base),
        "--config", str(world.folder / "command" / "cloud.toml"), "-o", str(world.folder / "never"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["state"] == "refused" and "the round is refused" in report["verdict"]


@pytest.fixture(scope="module")
def fresh(world: World) -> Iterator[tuple[OpenTask, Lessons]]:
    """A store with enough of what the deployed bundle sent itself, and what may be learnt of it."""
    with open_world(world, "fresh") as work:
        fill(work, world)
        escalate(work, world, load_model(world.folder / "large"), inputs("more", 500, 7))
        base = open_base(world.base, world.task, threads=1)
        material = gather(work, base, threads=1, progress=lambda *_: None)
        yield work, learnable(material, work, base, LENIENT).lessons


def test_a_round_learns_when_to_ask_and_the_bundle_says_what_came_of_it(
    fresh: tuple[OpenTask, Lessons], world: World
) -> None:
    work, lessons = fresh
    report = learn(work, world, "round-fresh")
    assert report.state == "promoted", report.verdict
    manifest = open_bundle(world.folder / "round-fresh").manifest
    assert manifest.provenance["deferral"].endswith(f"learnt from {len(lessons.fresh.tensors)} rows")
    assert report.deferral == manifest.provenance["deferral"]
    ships = manifest.outputs.deferral is not None
    assert ships == (not manifest.provenance["deferral"].startswith("left out"))


def test_each_sister_is_asked_about_what_she_was_not_shown_and_errs_more_than_the_student_does(
    fresh: tuple[OpenTask, Lessons], world: World
) -> None:
    base, lessons, plan = open_base(world.base, world.task, threads=1), fresh[1], DistilPlan(epochs=6)
    pairs = sister_pairs(base, lessons, plan, seed=0, progress=lambda *_: None)
    assert pairs is not None and sorted(pairs.groups) == sorted(lessons.fresh.tensors.groups)
    student = distilled(base, lessons, plan, seed=0, progress=lambda *_: None)
    own = make_pairs(student, lessons.fresh.tensors, lessons.fresh.probabilities)
    assert pairs.right.mean() < own.right.mean() - 0.01


def test_few_fresh_rows_train_no_sister(fresh: tuple[OpenTask, Lessons], world: World) -> None:
    lessons = fresh[1]
    few = np.arange(300)
    fewer = Taught(tensors=lessons.fresh.tensors.take(few), probabilities=lessons.fresh.probabilities[few])
    base = open_base(world.base, world.task, threads=1)
    assert (
        sister_pairs(
            base, replace(lessons, fresh=fewer), DistilPlan(), seed=0, progress=lambda *_: pytest.fail("trained")
        )
        is None
    )


def test_only_what_the_deployed_bundle_sent_and_todays_large_model_answered_is_fresh(
    fresh: tuple[OpenTask, Lessons], world: World
) -> None:
    """After an update, what older releases sent has been learnt from, and teaches nothing of when to ask."""
    shelf = fresh[0].library.load("train")
    confidence = Confidence(threshold=0.9, temperature=1.0, accuracy=1.0, rows=100)
    large, own = str(max(shelf.teacher_models)), load_model(world.base).digest

    def found(deployed: str, large_model: str) -> int:
        chosen = choose_rows(shelf, large_model=large_model, deployed=deployed, confidence=confidence)
        return len(chosen.fresh)

    assert found(own, large) == int(shelf.escalated.sum()) == len(fresh[1].fresh.tensors)
    assert found("another release", large) == found(own, "another large model") == 0
