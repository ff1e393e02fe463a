"""The journey of an input on the device, with a real model and a real outbox; the test is the cloud."""

import asyncio
from pathlib import Path
from typing import NoReturn

import pytest
from edge_agents import QUIET, Bench, running_agent
from msgspec.structs import asdict, replace

from factory import make_task, parts_of, sure, unsure
from outrider_edge.journey.agent import NO_TASK
from outrider_edge.journey.way_out import WayOut
from outrider_wire.errors import CallerInputError, CallerUnknownError
from outrider_wire.report import AnswerReport
from outrider_wire.task import Policy, Privacy

HURRIED = replace(QUIET, answer_within_ms=50)


def counts(bench: Bench) -> dict[str, int]:
    """The account without its zeros."""
    return {name: value for name, value in asdict(bench.agent.account()).items() if value}


async def escalated(bench: Bench, **wishes: object) -> tuple["asyncio.Task[AnswerReport]", str]:
    """A refused input under way, and its id once it is sent."""
    task = asyncio.create_task(bench.agent.submit("colours", parts_of(unsure()), **wishes))  # type: ignore[arg-type]  # keywords of submit
    return task, (await bench.uplink.sent.get()).id


async def test_a_sure_input_is_answered_here_under_the_certificate(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        report = await bench.agent.submit("colours", parts_of(sure(1)))
        assert (report.label, report.state, report.answered_by, report.final) == ("green", "edge", "edge", True)
        assert report.certified
        assert report.certificate
        assert report.why == "accepted"
        assert report.threshold == 0.8
        assert set(report.ms) == {"prepare", "model", "gate", "total"}
        assert await bench.agent.get(report.id) == report
        assert counts(bench) == {"received": 1, "edge": 1}


async def test_a_refused_input_waits_for_the_large_model(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        asked, input_id = await escalated(bench)
        assert counts(bench) == {"received": 1, "pending": 1}
        await bench.uplink.answer(input_id, "blue")
        report = await asked
        assert (report.label, report.state, report.answered_by, report.final) == ("blue", "cloud", "cloud", True)
        assert not report.late
        assert report.ms["cloud"] >= 0
        assert report.why == "low_confidence"
        assert counts(bench) == {"received": 1, "cloud": 1}


async def test_who_asks_for_the_provisional_answer_gets_it_at_once_and_the_final_one_later(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        report = await bench.agent.submit("colours", parts_of(unsure()), wait=False)
        assert (report.state, report.final, report.answered_by) == ("pending", False, "edge")
        waiting = asyncio.create_task(bench.agent.wait_final(report.id, 5.0))
        await asyncio.sleep(0.01)
        await bench.uplink.answer(report.id)
        assert (await waiting).state == "cloud"
        assert (await bench.agent.get(report.id)).label == "blue"


async def test_at_the_deadline_the_local_answer_stands_and_a_later_one_is_late(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=HURRIED) as bench:
        report = await bench.agent.submit("colours", parts_of(unsure()))
        assert (report.state, report.final, report.answered_by) == ("pending", True, "edge")
        assert not report.certified
        assert "no answer within 50 ms" in report.note
        assert counts(bench) == {"received": 1, "pending": 1}
        await bench.uplink.answer(report.id)
        settled = await bench.agent.get(report.id)
        assert (settled.state, settled.late, settled.label) == ("cloud", True, "blue")
        assert counts(bench)["late"] == 1
        assert bench.metrics.tasks["colours"].overdue == 1


async def test_the_callers_deadline_wins_over_the_tasks(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        report = await bench.agent.submit("colours", parts_of(unsure()), answer_within_ms=0)
        assert (report.state, report.final) == ("pending", True)


async def test_an_unreachable_broker_is_said(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=HURRIED) as bench:
        bench.uplink.connected = False
        assert "the broker is unreachable" in (await bench.agent.submit("colours", parts_of(unsure()))).note


async def test_an_expired_and_a_refused_escalation_keep_the_local_answer_and_count_as_what_they_are(
    tmp_path: Path,
) -> None:
    async with running_agent(tmp_path) as bench:
        for state, end in (("expired", bench.uplink.expire), ("refused", bench.uplink.refuse)):
            asked, input_id = await escalated(bench)
            await end(input_id)
            report = await asked
            assert (report.state, report.answered_by, report.final) == (state, "edge", True)
            assert report.label == (await bench.agent.get(input_id)).label
            assert not report.certified
        assert counts(bench) == {"received": 2, "expired": 1, "refused": 1, "uncertified": 2}


async def test_a_second_answer_changes_nothing(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        asked, input_id = await escalated(bench)
        await bench.uplink.answer(input_id, "blue")
        first = await asked
        await bench.uplink.answer(input_id, "green")
        assert await bench.agent.get(input_id) == first
        assert counts(bench) == {"received": 1, "cloud": 1}


async def test_an_audit_never_changes_or_delays_the_answer(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=replace(QUIET, audit_rate=1.0)) as bench:
        report = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (report.label, report.state, report.audited, report.final) == ("red", "edge", True, True)
        entry = await bench.uplink.sent.get()
        assert (entry.why, entry.audit, entry.state, entry.id) == ("audit", 1.0, "edge", report.id)
        await bench.uplink.answer(report.id, "blue")
        assert (await bench.agent.get(report.id)).label == "red"
        assert counts(bench) == {"received": 1, "edge": 1, "audited": 1}


async def test_audits_come_at_the_rate_of_the_policy(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=replace(QUIET, audit_rate=0.2)) as bench:
        reports = [await bench.agent.submit("colours", parts_of(sure(0))) for _ in range(300)]
        audited = sum(report.audited for report in reports)
        assert 30 <= audited <= 90  # 60 expected; four standard deviations are 28


async def test_a_caller_who_insists_gets_the_large_model(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        asked = asyncio.create_task(bench.agent.submit("colours", parts_of(sure(0)), insist=True, group="clip-1"))
        entry = await bench.uplink.sent.get()
        assert (entry.why, entry.audit, entry.group) == ("requested", 0.0, "clip-1")
        await bench.uplink.answer(entry.id, "blue")
        report = await asked
        assert (report.label, report.why) == ("blue", "requested")


async def test_without_a_certificate_everything_escalates(tmp_path: Path) -> None:
    async with running_agent(tmp_path, certified=False, policy=HURRIED) as bench:
        report = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (report.why, report.certified, report.certificate) == ("no_certificate", False, "")
        assert report.threshold is None
        assert (await bench.uplink.sent.get()).why == "no_certificate"


async def test_a_device_alone_answers_what_the_rule_refuses_and_says_uncertified(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        bench.uplink.enabled = False
        report = await bench.agent.submit("colours", parts_of(unsure()))
        assert (report.state, report.final, report.certified) == ("edge", True, False)
        assert "alone" in report.note
        accepted = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (accepted.certified, accepted.note) == (True, "")
        assert counts(bench) == {"received": 2, "edge": 2, "uncertified": 1}


@pytest.mark.parametrize("forbidden", ["privacy", "shadow"])
async def test_what_may_not_leave_the_device_does_not(tmp_path: Path, forbidden: str) -> None:
    task = make_task(policy=replace(QUIET, audit_rate=1.0), privacy=Privacy(escalate=forbidden != "privacy"))
    if forbidden == "shadow":
        task = replace(task, policy=replace(task.policy, mode="shadow"))
    async with running_agent(tmp_path, task=task) as bench:
        for image, insist in ((unsure(), False), (sure(0), True), (sure(0), False)):
            report = await bench.agent.submit("colours", parts_of(image), insist=insist)
            assert (report.state, report.final, report.audited) == ("edge", True, False)
        assert bench.uplink.sent.empty()
        assert counts(bench) == {"received": 3, "edge": 3, "uncertified": 1}
        assert sum(bench.metrics.tasks["colours"].not_sent.values()) == 2


async def test_a_full_outbox_leaves_the_local_answer_and_is_said(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        bench.uplink.full = True
        report = await bench.agent.submit("colours", parts_of(unsure()))
        assert (report.state, report.final, report.certified) == ("edge", True, False)
        assert "outbox is full" in report.note
        assert await bench.agent.get(report.id) == report
        assert counts(bench) == {"received": 1, "edge": 1, "uncertified": 1}


@pytest.mark.parametrize(
    ("parts", "reason", "part"),
    [
        ({"question": "is it red?"}, "missing_part", "image"),
        (parts_of(sure(0)) | {"audio": b"x"}, "extra_part", "audio"),
        (parts_of(b"no image at all"), "not_an_image", "image"),
        (parts_of(sure(0)[:60]), "damaged_image", "image"),
        (parts_of(sure(0)) | {"question": b"\xff\xfe\xfd"}, "not_utf8", "question"),
        (parts_of(sure(0)) | {"image": "text"}, "wrong_type", "image"),
        (parts_of(sure(0), "word " * 1000), "too_large", "question"),
    ],
)
async def test_a_bad_input_is_the_callers_and_is_counted(
    tmp_path: Path, parts: dict[str, bytes | str], reason: str, part: str
) -> None:
    async with running_agent(tmp_path) as bench:
        with pytest.raises(CallerInputError) as caught:
            await bench.agent.submit("colours", parts)
        assert (caught.value.reason, caught.value.part) == (reason, part)
        assert counts(bench) == {"received": 1, "refused": 1}
        assert bench.metrics.tasks["colours"].refused == {reason: 1}
        assert (await bench.agent.submit("colours", parts_of(sure(0)))).label == "red"


async def test_an_unknown_task_is_counted_without_a_label_that_a_caller_could_invent(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        with pytest.raises(CallerUnknownError, match="no task 'shapes' is served here; ask for one of: colours"):
            await bench.agent.submit("shapes", parts_of(sure(0)))
        assert bench.agent.account(NO_TASK).refused == 1
        assert bench.agent.account("colours").received == 0


async def test_an_unknown_id_is_said(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        with pytest.raises(CallerUnknownError):
            await bench.agent.get("01990000-0000-7000-8000-000000000000")


@pytest.mark.parametrize("wishes", [{"answer_within_ms": -1}, {"answer_within_ms": 10**9}, {"group": "g" * 200}])
async def test_a_wish_out_of_bounds_is_refused(tmp_path: Path, wishes: dict[str, int | str]) -> None:
    async with running_agent(tmp_path) as bench:
        with pytest.raises(CallerInputError):
            await bench.agent.submit("colours", parts_of(sure(0)), **wishes)  # type: ignore[arg-type]  # wrong on purpose
        assert counts(bench) == {"received": 1, "refused": 1}


async def test_a_caller_who_goes_away_leaves_an_account_that_adds_up(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        gone, input_id = await escalated(bench)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert counts(bench) == {"received": 1, "pending": 1}
        await bench.uplink.answer(input_id)
        assert counts(bench) == {"received": 1, "cloud": 1}
        early = asyncio.create_task(bench.agent.submit("colours", parts_of(sure(0))))
        await asyncio.sleep(0)
        early.cancel()
        await asyncio.gather(early, return_exceptions=True)
        assert bench.agent.account().adds_up
        assert bench.agent.account().received == 2


async def test_who_still_waits_when_the_agent_stops_gets_the_local_answer(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        asked, input_id = await escalated(bench)
        await bench.agent.drain(0.02)
        report = await asked
        assert (report.id, report.final, report.state) == (input_id, True, "pending")
        assert "the agent stops" in report.note


async def test_an_escalated_input_is_known_by_its_id_after_a_restart(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        report = await bench.agent.submit("colours", parts_of(unsure()), wait=False)
        await bench.agent.submit("colours", parts_of(sure(0)))
    async with running_agent(tmp_path) as bench:
        assert counts(bench) == {"received": 2, "edge": 1, "pending": 1}
        assert (await bench.agent.get(report.id)).state == "pending"
        await bench.uplink.answer(report.id)
        assert (await bench.agent.get(report.id)).label == "blue"


async def test_many_inputs_at_once_each_end_in_one_state(tmp_path: Path) -> None:
    policy = Policy(answer_within_ms=5_000, keep_for_s=600, audit_rate=0.3)
    async with running_agent(tmp_path, policy=policy) as bench:

        async def cloud() -> None:
            while True:
                entry = await bench.uplink.sent.get()
                await bench.uplink.answer(entry.id)

        answering = asyncio.create_task(cloud())
        images = [sure(n % 3, shade=n % 20) if n % 2 else unsure(shade=n % 20) for n in range(80)]
        reports = await asyncio.gather(*(bench.agent.submit("colours", parts_of(image)) for image in images))
        await bench.agent.drain(5.0)
        answering.cancel()
        account = bench.agent.account()
        assert (account.edge, account.cloud, account.pending) == (40, 40, 0)
        assert sum(report.audited for report in reports) == account.audited
        assert all(report.final for report in reports)


async def test_an_input_that_this_device_fails_on_while_it_is_made_fit_to_leave_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def out_of_memory(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    async with running_agent(tmp_path) as bench:
        monkeypatch.setattr(WayOut, "leave", out_of_memory)
        report = await bench.agent.submit("colours", parts_of(unsure()))
        assert (report.final, report.answered_by, report.certified) == (True, "edge", False)
        account = bench.agent.account()
        assert (account.received, account.edge, account.pending) == (1, 1, 0)
        assert account.adds_up
