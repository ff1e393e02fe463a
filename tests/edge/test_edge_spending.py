"""A budget in the agent: what it does not send is answered here, uncertified, with the reason; and a restart renews nothing."""

import asyncio
from pathlib import Path

import pytest
from edge_agents import QUIET, Bench, running_agent
from edge_entries import HandClock, make_answer, make_entry, until
from msgspec.structs import asdict, replace

from factory import foreign, make_task, parts_of, sure, unsure
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.uplink.offering import Offering
from outrider_wire.errors import RuleRefusalError
from outrider_wire.messages import Escalation
from outrider_wire.report import AnswerReport
from outrider_wire.task import Budget, Task

HURRIED = replace(QUIET, answer_within_ms=0)


def task_with(budget: Budget, **policy: object) -> Task:
    return make_task(policy=replace(HURRIED, **policy), budget=budget)


def counts(bench: Bench) -> dict[str, int]:
    """The account without its zeros."""
    return {name: value for name, value in asdict(bench.agent.account()).items() if value}


async def asked(bench: Bench, n: int, *, insist: bool = False) -> list[AnswerReport]:
    images = [unsure(shade=shade % 20) for shade in range(n)]
    return [await bench.agent.submit("colours", parts_of(image), insist=insist) for image in images]


async def test_a_spent_budget_answers_here_uncertified_and_says_so_with_the_figures(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(Budget(escalations_per_hour=3))) as bench:
        reports = await asked(bench, 5, insist=True)
        assert [report.state for report in reports] == ["pending"] * 3 + ["edge"] * 2
        last = reports[-1]
        assert (last.final, last.certified, last.why, last.answered_by) == (True, False, "low_confidence", "edge")
        assert "the budget is spent: 3 of 3 escalations in the last hour" in last.note
        assert bench.metrics.tasks["colours"].not_sent == {"budget": 2}
        assert counts(bench) == {"received": 5, "pending": 3, "edge": 2, "uncertified": 2}
        assert bench.uplink.sent.qsize() == 3
        assert await bench.agent.get(last.id) == last


async def test_what_the_rule_accepts_is_answered_and_audited_whatever_the_budget(tmp_path: Path) -> None:
    task = task_with(Budget(escalations_per_hour=0), audit_rate=1.0)
    async with running_agent(tmp_path, task=task) as bench:
        report = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (report.certified, report.audited, report.note) == (True, True, "")
        wished = await bench.agent.submit("colours", parts_of(sure(0)), insist=True)
        assert (wished.certified, wished.audited, wished.state) == (True, True, "edge")
        assert "the budget is spent" in wished.note
        await until(lambda: bench.uplink.sent.qsize() == 2)
        [limit] = bench.agent.budgets()["colours"].values()
        assert (limit.spent, limit.audits) == (0, 2)


async def test_an_unlike_input_goes_before_one_that_the_device_half_knows(tmp_path: Path) -> None:
    clock = HandClock()
    async with running_agent(tmp_path, task=task_with(Budget(escalations_per_day=60)), clock=clock.clock) as bench:
        states: dict[str, list[str]] = {"unsure": [], "foreign": []}
        for n in range(300):
            clock.now += 288.0
            kind, image = ("foreign", foreign(seed=n)) if n % 6 == 0 else ("unsure", unsure(shade=n % 20))
            states[kind].append((await bench.agent.submit("colours", parts_of(image))).state)
        assert states["foreign"].count("pending") > 0.8 * len(states["foreign"])
        assert states["unsure"].count("pending") < 0.2 * len(states["unsure"])


async def test_a_restart_renews_no_budget(tmp_path: Path) -> None:
    task = task_with(Budget(escalations_per_day=2))
    async with running_agent(tmp_path, task=task) as bench:
        await asked(bench, 2, insist=True)
    async with running_agent(tmp_path, task=task) as bench:
        [report] = await asked(bench, 1, insist=True)
        assert "2 of 2 escalations in the last day" in report.note
        assert counts(bench) == {"received": 3, "pending": 2, "edge": 1, "uncertified": 1}


async def test_what_was_spent_is_on_the_disk_with_the_escalation_not_a_flush_later(tmp_path: Path) -> None:
    outbox = Outbox(folder=tmp_path, flush_s=3_600)
    await outbox.start()
    try:
        outbox.remember("budget/colours", "one")
        await outbox.put(make_entry())
        other = Outbox(folder=tmp_path, flush_s=3_600)
        await other.start()  # a second look at the file, as a start after a kill would take
        assert other.remembered["budget/colours"] == "one"
        assert len(await other.open_rows()) == 1
        await other.stop()
    finally:
        await outbox.stop()


async def test_the_metrics_and_the_status_say_what_is_left(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(Budget(escalations_per_hour=3))) as bench:
        await asked(bench, 4, insist=True)
        collector = AgentCollector(
            metrics=bench.metrics,
            accounts=lambda: {"colours": bench.agent.account()},
            connected=lambda: True,
            budgets=bench.agent.budgets,
            memories=bench.agent.memories,
        )
        text = page(collector).decode()
        assert 'outrider_budget_left{limit="escalations_per_hour",task="colours"} 0.0' in text
        assert 'outrider_not_sent_total{reason="budget",task="colours"} 1.0' in text


async def test_what_is_kept_to_be_learnt_from_is_answered_here_and_waits_in_the_outbox(tmp_path: Path) -> None:
    task = task_with(Budget(escalations_per_hour=1, when_spent="keep"))
    async with running_agent(tmp_path, task=task) as bench:
        first, kept = await asked(bench, 2)
        assert (first.state, kept.state, kept.final, kept.certified) == ("pending", "edge", True, False)
        await until(lambda: bench.uplink.sent.qsize() == 2)
        entry = [bench.uplink.sent.get_nowait() for _ in range(2)][1]
        assert (entry.id, entry.state, entry.audit, entry.why, entry.answer_within_ms) == (
            kept.id,
            "edge",
            0.0,
            "low_confidence",
            0,
        )
        page = await bench.outbox.shelves.page(after=0, limit=10)
        assert {entry.id: entry.worth for entry in page.entries} == {first.id: "waited", kept.id: "spare"}
        await bench.uplink.answer(kept.id)
        assert (await bench.agent.get(kept.id)).label == kept.label
        assert counts(bench) == {"received": 2, "pending": 1, "edge": 1, "uncertified": 1}


async def test_an_input_that_no_budget_will_ever_send_is_not_kept(tmp_path: Path) -> None:
    async with running_agent(tmp_path, task=task_with(Budget(bytes_per_hour=10, when_spent="keep"))) as bench:
        [answered] = await asked(bench, 1)
        assert answered.state == "edge"
        assert counts(bench) == {"received": 1, "edge": 1, "uncertified": 1}
        assert await bench.outbox.open_rows() == []


async def test_kept_inputs_never_crowd_out_what_somebody_waits_for(tmp_path: Path) -> None:
    outbox = Outbox(folder=tmp_path, bounds=DEFAULT_BOUNDS._replace(max_count=2))
    await outbox.start()
    try:
        kept, waited = [make_entry(state="edge") for _ in range(2)], [make_entry() for _ in range(2)]
        for entry in kept + waited:
            await outbox.put(entry)
        assert [row.id for row in await outbox.open_rows()] == [entry.id for entry in waited]
        with pytest.raises(RuleRefusalError) as refused:
            await outbox.put(make_entry(state="edge"))
        assert refused.value.reason == "outbox_full"
    finally:
        await outbox.stop()


class ListeningLine:
    """A broker that hears every offer."""

    def __init__(self) -> None:
        self.connected = True
        self.packet_limit = 1 << 20
        self.heard: list[str] = []

    async def offer(self, escalation: Escalation) -> bool:
        self.heard.append(escalation.id)
        return True


async def test_kept_inputs_are_offered_when_the_budget_has_room_and_not_before(tmp_path: Path) -> None:
    clock, line, room = HandClock(), ListeningLine(), 0
    outbox = Outbox(folder=tmp_path, clock=clock.clock)
    await outbox.start()

    def may_spare(_: Escalation) -> bool:
        nonlocal room
        room -= 1
        return room >= 0

    try:
        kept = [make_entry(state="edge", answer_within_ms=0) for _ in range(3)]
        for round_ in range(2):  # the second one takes them up after a restart
            offering = Offering(outbox=outbox, line=line, clock=clock.clock, spare_every_s=0.02)
            offering.spare_when(may_spare)
            await offering.start()
            for entry in kept if round_ == 0 else []:
                await offering.escalate(entry)
            offering.connected()
            await asyncio.sleep(0.1)
            assert line.heard == []
            if round_ == 1:
                room = 2
                await until(lambda: len(line.heard) == 2)
                await asyncio.sleep(0.1)
                assert line.heard == [kept[0].id, kept[1].id]
                await offering.on_answer(make_answer(kept[0].id))
                assert offering.counts["answered"] == 1
            await offering.stop()
        assert [row.id for row in await outbox.open_rows()] == [kept[1].id, kept[2].id]
    finally:
        await outbox.stop()


async def test_a_kept_input_whose_receipt_was_lost_is_offered_again_by_the_timer(tmp_path: Path) -> None:
    clock, line = HandClock(), ListeningLine()
    outbox = Outbox(folder=tmp_path, clock=clock.clock)
    await outbox.start()
    offering = Offering(outbox=outbox, line=line, clock=clock.clock, receipt_timer_s=5.0, spare_every_s=0.02)
    await offering.start()
    try:
        entry = make_entry(state="edge", answer_within_ms=0)
        await offering.escalate(entry)
        await until(lambda: offering.counts["offers"] == 1)
        clock.now += 6.0
        await offering.escalate(make_entry())  # wakes the pump, as its own timer would
        await until(lambda: line.heard.count(entry.id) == 2)
    finally:
        await offering.stop()
        await outbox.stop()


async def test_a_kept_input_that_the_budget_has_no_room_for_does_not_hold_up_the_others(tmp_path: Path) -> None:
    clock, line = HandClock(), ListeningLine()
    outbox = Outbox(folder=tmp_path, clock=clock.clock)
    await outbox.start()
    offering = Offering(outbox=outbox, line=line, clock=clock.clock, spare_every_s=0.02)
    offering.spare_when(lambda envelope: envelope.parts[0].size < 100)
    await offering.start()
    try:
        sizes = [1_000] * 10 + [10, 20]  # more that are too large than are looked at in one turn
        kept = [make_entry(b"x" * size, state="edge", answer_within_ms=0) for size in sizes]
        for entry in kept:
            await offering.escalate(entry)
        await until(lambda: len(line.heard) == 2)
        assert line.heard == [kept[10].id, kept[11].id]
    finally:
        await offering.stop()
        await outbox.stop()
