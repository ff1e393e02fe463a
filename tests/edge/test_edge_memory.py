"""The answer memory: the nearest answer of the large model among inputs whose other parts are equal; bounded, audited, uncertified."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
from edge_agents import QUIET, Bench, running_agent, write_config
from edge_entries import HandClock, until
from edge_releases import PATIENT, ShelfSource
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from factory import make_bundle, make_task, parts_of, png, sure, unsure
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.memory.answers import Answers, Remembered, digest_of_others, unit
from outrider_edge.memory.watch import MemoryWatch
from outrider_edge.updates.events import Assigned
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import start_slots
from outrider_edge.updates.updater import TaskUpdater
from outrider_engine.model import load_model
from outrider_wire.errors import BundleDamagedError, OperatorConfigError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, encode_manifest, manifest_digest
from outrider_wire.report import AnswerReport
from outrider_wire.task import Memory, Privacy, Task

WIDTH = 8
ON = Memory(enabled=True, max_distance=0.01, audit_rate=0.0)


def said(label: str, at_s: float = 0.0) -> Remembered:
    return Remembered(
        label=label, confidence=0.9, probabilities={label: 0.9}, large_model="large-1", strategy="shunt", at_s=at_s
    )


def vector(seed: int) -> np.ndarray:
    found = unit(np.random.default_rng(seed).normal(size=WIDTH))
    assert found is not None
    return found


def answers(max_entries: int = 100, keep_for_s: float = 60.0, max_distance: float = 0.01) -> Answers:
    return Answers(max_entries=max_entries, keep_for_s=keep_for_s, max_distance=max_distance)


def task_with(memory: Memory, **fields: object) -> Task:
    return make_task(policy=QUIET, memory=memory, **fields)


def counts(bench: Bench) -> dict[str, int]:
    """The account without its zeros."""
    return {name: value for name, value in asdict(bench.agent.account()).items() if value}


async def taught(bench: Bench, label: str = "blue", question: str = "what colour is it?") -> AnswerReport:
    """One refused input, answered by the large model."""
    asked = asyncio.create_task(bench.agent.submit("colours", parts_of(unsure(), question)))
    await bench.uplink.answer((await bench.uplink.sent.get()).id, label)
    return await asked


def test_the_nearest_answer_is_given_only_within_the_distance_and_with_equal_other_parts() -> None:
    memory = answers()
    memory.add(b"q1", vector(1), said("red"))
    memory.add(b"q1", vector(2), said("green"))
    near = unit(vector(2) + 0.02 * vector(3))
    assert near is not None
    hit = memory.find(1.0, b"q1", near)
    assert hit is not None
    assert (hit.answer.label, round(hit.distance, 3)) == ("green", round(1 - float(near @ vector(2)), 3))
    assert memory.find(1.0, b"q2", near) is None
    assert memory.find(1.0, b"q1", vector(4)) is None


def test_answers_are_forgotten_with_age_and_the_oldest_make_room() -> None:
    memory = answers(max_entries=3, keep_for_s=10.0)
    for n in range(5):
        memory.add(b"q", vector(n), said(str(n), at_s=float(n)))
    assert len(memory) == 3
    assert memory.find(4.0, b"q", vector(1)) is None
    assert memory.find(12.0, b"q", vector(2)) is not None
    assert memory.find(12.5, b"q", vector(2)) is None
    assert len(memory) == 2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), max_entries=st.integers(1, 20))
def test_the_answer_is_that_of_a_search_through_all(seed: int, max_entries: int) -> None:
    rng, memory = random.Random(seed), answers(max_entries=max_entries, max_distance=0.6)
    kept: list[tuple[bytes, int]] = []
    for n in range(60):
        others = rng.choice([b"a", b"b"])
        memory.add(others, vector(n), said(str(n)))
        kept = [*kept, (others, n)][-max_entries:]
        asked, where = vector(1_000 + n), rng.choice([b"a", b"b"])
        near = [(1 - float(vector(k) @ asked), k) for other, k in kept if other == where]
        hit = memory.find(0.0, where, asked)
        if not near or min(near)[0] > 0.6 + 1e-5:
            assert hit is None
        elif min(near)[0] < 0.6 - 1e-5:
            assert hit is not None
            assert hit.answer.label == str(min(near)[1])


@pytest.mark.parametrize("bad", [np.zeros(4), np.full(4, np.nan), np.array([1.0, np.inf]), None])
def test_an_embedding_that_is_no_direction_finds_nothing(bad: np.ndarray | None) -> None:
    assert unit(bad) is None


def test_the_other_parts_are_told_apart_by_name_and_bytes() -> None:
    digests = {
        digest_of_others(parts, ["image"])
        for parts in ({"q": "ab", "r": "c"}, {"q": "a", "r": "bc"}, {"q": "ab"}, {"r": "ab"}, {"q": ""})
    }
    assert len(digests) == 5
    assert digest_of_others({"image": b"1", "q": "x"}, ["image"]) == digest_of_others(
        {"image": b"2", "q": b"x"}, ["image"]
    )


def test_each_of_a_thousand_answers_is_found_by_its_own_embedding() -> None:
    memory, rng = answers(max_entries=1000), np.random.default_rng(0)
    rows = [row / np.float32(np.linalg.norm(row)) for row in rng.normal(size=(1000, 48)).astype(np.float32)]
    for k, row in enumerate(rows):
        memory.add(b"q", row, said(str(k)))
    found = [memory.find(1.0, b"q", row) for row in rows]
    assert [hit.answer.label for hit in found if hit] == [str(k) for k in range(1000)]


def test_a_memory_within_its_bound_is_seldom_switched_off_and_a_bad_one_soon_is() -> None:
    def switched_off_at(risk: float, seed: int, audits: int = 400) -> int:
        watch, rng = MemoryWatch(risk=0.1, delta=0.05), np.random.default_rng(seed)
        return next((n for n in range(1, audits + 1) if watch.saw(agrees=rng.random() >= risk)), audits + 1)

    assert np.mean([switched_off_at(0.1, seed) <= 400 for seed in range(600)]) <= 0.05
    assert np.median([switched_off_at(0.4, seed) for seed in range(100)]) <= 40


def test_a_memory_that_is_off_stays_off_until_it_is_restarted() -> None:
    watch = MemoryWatch(risk=0.1, delta=0.05)
    assert sum(watch.saw(agrees=False) for _ in range(10)) == 1
    assert (watch.off, watch.saw(agrees=True)) == (True, False)
    watch.restart()
    assert (watch.off, watch.audited) == (False, 0)


async def test_a_refused_input_that_is_nearly_known_is_answered_from_memory_uncertified(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(ON), embedding=True) as bench:
        await taught(bench, "blue")
        report = await bench.agent.submit("colours", parts_of(unsure(shade=7)))
        assert (report.state, report.answered_by, report.label, report.final) == ("memory", "memory", "blue", True)
        assert (report.certified, report.large_model, report.why) == (False, "large-1", "low_confidence")
        assert report.confidence == 0.9
        assert "of an input at distance 0.0000" in report.note
        assert await bench.agent.get(report.id) == report
        assert counts(bench) == {"received": 2, "cloud": 1, "memory": 1, "uncertified": 1}
        assert bench.uplink.sent.empty()


async def test_another_question_about_the_same_image_is_another_input(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(ON), embedding=True) as bench:
        await taught(bench, "blue")
        assert (await taught(bench, "red", "what colour is it, really?")).state == "cloud"


async def test_what_the_rule_accepts_and_what_its_caller_insists_on_never_comes_from_memory(tmp_path: Path) -> None:
    wide = replace(ON, max_distance=2.0)
    async with running_agent(tmp_path, task=task_with(wide), embedding=True) as bench:
        await taught(bench, "blue")
        accepted = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (accepted.answered_by, accepted.label, accepted.certified) == ("edge", "red", True)
        wished = await bench.agent.submit("colours", parts_of(unsure()), insist=True, wait=False)
        assert wished.state == "pending"


async def test_a_memory_that_is_not_asked_for_remembers_nothing(tmp_path: Path) -> None:
    async with running_agent(tmp_path, embedding=True) as bench:
        await taught(bench)
        assert (await taught(bench)).state == "cloud"
        assert bench.agent.memories() == {}


async def test_age_is_counted_in_run_time(tmp_path: Path) -> None:
    clock = HandClock()
    task = task_with(replace(ON, keep_for_s=60))
    async with running_agent(tmp_path, task=task, clock=clock.clock, embedding=True) as bench:
        await taught(bench)
        clock.now += 59
        assert "59 s ago" in (await bench.agent.submit("colours", parts_of(unsure()))).note
        clock.now += 2
        assert (await taught(bench)).state == "cloud"


async def test_another_model_begins_with_an_empty_memory(tmp_path: Path) -> None:
    task = task_with(ON)
    async with running_agent(tmp_path, task=task, embedding=True) as bench:
        await taught(bench)
        runtime = bench.agent.runtimes["colours"]
        runtime.swap(load_model(make_bundle(tmp_path / "next", task, seed=1, embedding=True), bounds=task.inputs))
        assert (await taught(bench)).state == "cloud"
        assert (await bench.agent.submit("colours", parts_of(unsure()))).state == "memory"


async def test_an_audit_of_the_memory_changes_no_answer_and_a_disagreement_forgets_it(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(replace(ON, audit_rate=1.0)), embedding=True) as bench:
        await taught(bench, "blue")
        report = await bench.agent.submit("colours", parts_of(unsure(shade=3)))
        assert (report.state, report.label, report.audited) == ("memory", "blue", True)
        entry = await bench.uplink.sent.get()
        assert (entry.id, entry.why, entry.audit, entry.state) == (report.id, "memory", 0.0, "memory")
        assert counts(bench) == {"received": 2, "cloud": 1, "memory": 1, "audited": 1, "uncertified": 1}
        await bench.uplink.answer(report.id, "green")
        assert (await bench.agent.get(report.id)).label == "blue"
        memory = bench.agent.memories()["colours"]
        assert (memory.hits, memory.audited, memory.disagreed, memory.entries) == (1, 1, 1, 1)
        assert (await bench.agent.submit("colours", parts_of(unsure()))).label == "green"


async def test_audits_of_the_memory_come_at_their_own_rate(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(replace(ON, audit_rate=0.2)), embedding=True) as bench:
        await taught(bench)
        reports = [await bench.agent.submit("colours", parts_of(unsure(shade=n % 20))) for n in range(300)]
        assert all(report.state == "memory" for report in reports)
        assert 30 <= sum(report.audited for report in reports) <= 90  # 60 expected; four standard deviations are 28


async def test_a_memory_that_is_wrong_too_often_switches_itself_off_and_is_shown(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(replace(ON, audit_rate=1.0)), embedding=True) as bench:
        await taught(bench, "blue")
        for n in range(8):
            report = await bench.agent.submit("colours", parts_of(unsure()), wait=False)
            await bench.uplink.answer((await bench.uplink.sent.get()).id, ("red", "green", "blue")[n % 3])
            if bench.agent.memories()["colours"].off:
                break
        assert report.state == "memory"
        assert (await bench.agent.submit("colours", parts_of(unsure()), wait=False)).state == "pending"
        collector = AgentCollector(
            metrics=bench.metrics, accounts=dict, connected=lambda: True, memories=bench.agent.memories
        )
        assert 'outrider_memory_off{task="colours"} 1.0' in page(collector).decode()


async def test_an_audit_that_cannot_be_kept_leaves_the_answer_and_the_account(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(replace(ON, audit_rate=1.0)), embedding=True) as bench:
        await taught(bench)
        bench.uplink.full = True
        report = await bench.agent.submit("colours", parts_of(unsure()))
        await until(lambda: bench.agent.account().memory == 1)
        assert (await bench.agent.get(report.id)).state == "memory"


async def test_a_device_whose_broker_is_gone_goes_on_answering_from_memory(tmp_path: Path) -> None:
    task = task_with(replace(ON, audit_rate=1.0))
    async with running_agent(tmp_path, task=task, embedding=True) as bench:
        await taught(bench)
        bench.uplink.enabled = False
        report = await bench.agent.submit("colours", parts_of(unsure()))
        assert (report.state, report.audited) == ("memory", False)


async def test_a_memory_over_a_model_without_an_embedding_is_refused_at_the_start_with_the_fix(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "task.toml").write_text((tmp_path / "task.toml").read_text() + "[memory]\nenabled = true\n")
    with pytest.raises(OperatorConfigError, match="exports no embedding") as caught:
        async with serving(load_edge_config(config)):
            pass
    assert "--embedding" in caught.value.fix


async def test_an_update_without_the_embedding_that_the_memory_needs_is_refused(tmp_path: Path) -> None:
    task = task_with(ON)
    factory = make_bundle(tmp_path / "factory", task, embedding=True)
    plain = make_bundle(tmp_path / "plain", task, seed=2, version="2")
    start = start_slots(folder=SlotFolder(folder=tmp_path / "slots", task=task), factory=factory, load=load_model)
    updater = TaskUpdater(
        start=start,
        runtime=TaskRuntime(task=task, model=start.model),
        source=ShelfSource(plain),
        load=load_model,
        changed=lambda: None,
        terms=PATIENT,
    )
    updater.start()
    manifest = (plain / MANIFEST_FILE).read_bytes()
    updater.assign(Assigned(release=manifest_digest(manifest), size=len(manifest), counter=1))
    await until(lambda: updater.report().state == "refused")
    assert "bundle 2 exports no embedding" in updater.report().reason
    await updater.stop()


def test_a_manifest_says_which_parts_its_embedding_stands_for_or_is_damaged(tmp_path: Path) -> None:
    model = load_model(make_bundle(tmp_path / "bundle", embedding=True))
    [inference] = model.infer([model.prepare(parts_of(png((255, 0, 0))))])
    assert inference.embedding is not None
    assert inference.embedding.tolist() == pytest.approx([1.0, 0.0, 0.0])
    for parts in ([], ["sound"]):
        with pytest.raises(BundleDamagedError, match="embedding"):
            decode_manifest(encode_manifest(replace(model.manifest, embedding_parts=parts)))


async def test_what_may_not_leave_the_device_is_not_audited_either(tmp_path: Path) -> None:
    task = task_with(replace(ON, audit_rate=1.0), privacy=Privacy(escalate=False))
    async with running_agent(tmp_path, task=task, embedding=True) as bench:
        report = await bench.agent.submit("colours", parts_of(unsure()))
        assert (report.state, bench.uplink.sent.qsize(), len(bench.agent.memories())) == ("edge", 0, 1)
