"""The watch over a certificate on the device: what audits do to it, what its alarm does, and what outlives a restart."""

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from edge_agents import QUIET, Bench, running_agent
from edge_entries import HandClock, make_answer, make_entry, until
from msgspec.structs import replace

from factory import foreign, make_bundle, make_task, parts_of, sure, unsure
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.journey.asked import AUDIT_KEEP_S
from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.outbox.outcomes import Answered, Expired, Outcome, Refused
from outrider_edge.ports import AuditEnded, OutboxEntry
from outrider_edge.uplink.presence import telemetry
from outrider_wire.messages import Escalation, MonitorFigures, Refusal
from outrider_wire.monitor import Monitor
from outrider_wire.report import Account
from outrider_wire.roles import is_audited
from outrider_wire.task import Policy, Privacy

AUDITED = replace(QUIET, audit_rate=1.0)
WANTED = Monitor(risk=0.05, alpha=1e-3)
CERTIFICATE = "0123456789abcdef"
CHILD = Path(__file__).parents[1] / "edge_audit_child.py"


def make_audit(certificate: str = CERTIFICATE, **fields: object) -> OutboxEntry:
    entry = make_entry(audit=True, **fields)
    return replace(entry, report=replace(entry.report, certificate=certificate))


async def opened(folder: Path, **limits: int) -> Outbox:
    outbox = Outbox(folder=folder, clock=HandClock().clock, flush_s=0.02, bounds=DEFAULT_BOUNDS._replace(**limits))
    await outbox.start()
    return outbox


async def ended(outbox: Outbox, outcome: str, entry: OutboxEntry | None = None) -> None:
    """Puts an audit and ends it."""
    entry = entry or make_audit()
    outbox.arrived(entry.task)
    await outbox.put(entry)
    await outbox.settle(entry.id, outcome_of(outcome, entry.id))


def outcome_of(outcome: str, id_: str) -> Outcome:
    return {
        "agrees": Answered(make_answer(id_, label="red")),
        "differs": Answered(make_answer(id_, label="blue")),
        "expired": Expired(),
        "refused": Refused(Refusal(id=id_, reason="unknown_task")),
    }[outcome]


@pytest.mark.parametrize(("outcome", "loss"), [("agrees", 0), ("differs", 1), ("expired", 1), ("refused", 1)])
async def test_an_audit_is_an_error_unless_the_large_model_agrees(tmp_path: Path, outcome: str, loss: int) -> None:
    outbox, told = await opened(tmp_path), list[AuditEnded]()
    outbox.watches.listen(told.append)
    outbox.watches.watch("colours", CERTIFICATE, WANTED)
    entry = make_audit()
    await ended(outbox, outcome, entry)
    await outbox.settle(entry.id, outcome_of("differs", entry.id))  # a repeat changes nothing
    watched = outbox.watches.watched("colours", CERTIFICATE)
    assert watched is not None
    assert (watched.monitor.audits, watched.monitor.errors) == (1, loss)
    assert [(one.report.id, one.loss, one.watched) for one in told] == [(entry.id, loss, watched)]
    assert await outbox.find(entry.id) == entry.report
    await outbox.stop()


async def test_audits_of_another_certificate_or_of_an_uncertified_answer_move_nothing(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    outbox.watches.watch("colours", CERTIFICATE, WANTED)
    await ended(outbox, "differs", make_audit("another"))
    entry = make_audit()
    await ended(outbox, "differs", replace(entry, report=replace(entry.report, certified=False)))
    watched = outbox.watches.watched("colours", CERTIFICATE)
    assert watched is not None
    assert watched.monitor == WANTED
    await outbox.stop()


async def test_a_watch_goes_on_after_a_restart_and_counts_what_was_under_way(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    outbox.watches.watch("colours", CERTIFICATE, WANTED)
    await ended(outbox, "differs")
    under_way = make_audit()
    outbox.arrived("colours")
    await outbox.put(under_way)
    await outbox.stop()
    outbox = await opened(tmp_path)
    assert outbox.watches.watch("colours", CERTIFICATE, WANTED).monitor.audits == 1
    await outbox.settle(under_way.id, Expired())
    watched = outbox.watches.watched("colours", CERTIFICATE)
    assert watched is not None
    assert (watched.monitor.audits, watched.monitor.errors) == (2, 2)
    await outbox.stop()


async def test_an_audit_survives_a_restart_of_a_task_that_gave_durability_up(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    for entry in (make_audit(durability="memory"), make_entry(durability="memory")):
        outbox.arrived("colours")
        await outbox.put(entry)
    await outbox.stop()
    outbox = await opened(tmp_path)
    assert [row.envelope.why for row in await outbox.open_rows()] == ["audit"]
    await outbox.stop()


async def test_an_audit_finds_room_where_others_wait_and_the_one_that_it_displaces_in_the_end_counts_as_an_error(
    tmp_path: Path,
) -> None:
    outbox, told = await opened(tmp_path, max_count=3), list[AuditEnded]()
    outbox.watches.listen(told.append)
    outbox.watches.watch("colours", CERTIFICATE, WANTED)
    for _ in range(3):
        outbox.arrived("colours")
        await outbox.put(make_entry())
    audits = [make_audit() for _ in range(4)]
    for number, entry in enumerate(audits):
        assert [one.report.id for one in told] == [audits[0].id][: max(0, number - 3)]
        outbox.arrived("colours")
        await outbox.put(entry)
    assert [(one.report.id, one.loss) for one in told] == [(audits[0].id, 1)]
    watched = outbox.watches.watched("colours", CERTIFICATE)
    assert watched is not None
    assert (watched.monitor.audits, watched.monitor.errors) == (1, 1)
    assert outbox.account() == Account(received=7, edge=4, expired=3, audited=4, uncertified=3)
    assert outbox.account() == (await outbox.accounts_on_disk())["colours"]
    assert outbox.view().evictions == {"max_count/waited": 3, "max_count/precious": 1}
    await outbox.stop()


async def test_what_could_not_be_kept_counts_at_once_and_after_a_restart(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    outbox.watches.watch("colours", CERTIFICATE, WANTED)
    outbox.watches.audit_missed(make_audit().report)
    live = outbox.watches.watched("colours", CERTIFICATE)
    await outbox.stop()
    outbox = await opened(tmp_path)
    assert live is not None
    assert live.monitor.errors == 1
    assert outbox.watches.watched("colours", CERTIFICATE) == live
    await outbox.stop()


async def test_the_watches_of_long_gone_certificates_are_forgotten(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    for number in range(40):
        outbox.watches.watch("colours", f"certificate-{number}", WANTED)
    await outbox.stop()
    outbox = await opened(tmp_path)
    kept = [n for n in range(40) if outbox.watches.watched("colours", f"certificate-{n}") is not None]
    assert kept == list(range(24, 40))
    await outbox.stop()


def test_after_a_kill_every_settled_audit_is_counted_once(tmp_path: Path) -> None:
    """The child settles audits, and is killed in the middle of it."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )  # fmt: skip
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(60)]
    child.kill()
    told += child.stdout.readlines()
    child.wait()

    async def counted() -> Monitor:
        outbox = await opened(tmp_path)
        watched = outbox.watches.watched("colours", CERTIFICATE)
        await outbox.stop()
        assert watched is not None
        return watched.monitor

    monitor = asyncio.run(counted())
    with sqlite3.connect(tmp_path / "outbox.db") as file:
        (settled,) = file.execute("SELECT count(*) FROM input WHERE delivery = 'done'").fetchone()
    assert monitor.audits == settled >= sum(line.startswith("settled") for line in told) >= 10


# The agent


async def audit(bench: Bench, label: str) -> None:
    """One accepted input, whose audit comes back with that label."""
    report = await bench.agent.submit("colours", parts_of(sure(0)))
    assert (report.label, report.state) == ("red", "edge")
    entry = await bench.uplink.sent.get()
    assert entry.id == report.id
    assert entry.keep_for_s >= AUDIT_KEEP_S
    await bench.uplink.answer(entry.id, label)


async def alarmed(bench: Bench) -> int:
    """Audits that all disagree, until the promise is taken back; how many it took."""
    for count in range(1, 30):
        await audit(bench, "blue")
        if state_of(bench) == "alarm":
            return count
    raise AssertionError("no alarm")


def state_of(bench: Bench) -> str:
    return bench.agent.promise(bench.agent.runtimes["colours"]).watch.state


async def test_after_the_alarm_everything_is_sent_and_every_answer_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_agent(tmp_path, policy=AUDITED) as bench:
        before = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (before.certified, before.why) == (True, "accepted")
        await bench.uplink.answer((await bench.uplink.sent.get()).id, "red")
        with caplog.at_level(logging.ERROR):
            assert await alarmed(bench) < 12
        assert [record.levelname for record in caplog.records if record.message == "certificate.alarm"] == ["ERROR"]
        after = await bench.agent.submit("colours", parts_of(sure(0)), wait=False)
        assert (after.state, after.certified, after.why, after.threshold) == ("pending", False, "alarm", None)
        assert after.certificate == ""
        assert "promise is broken" in after.note
        assert (await bench.uplink.sent.get()).why == "alarm"
        assert await bench.agent.get(before.id) == before


async def test_the_alarm_outlives_a_restart_until_a_new_certificate_comes(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=AUDITED) as bench:
        await alarmed(bench)
    async with running_agent(tmp_path, policy=AUDITED) as bench:
        assert (await bench.agent.submit("colours", parts_of(sure(0)), wait=False)).why == "alarm"
        old = bench.agent.runtimes["colours"].model
        from outrider_engine.model import load_model

        task = bench.agent.runtimes["colours"].task
        new = load_model(make_bundle(tmp_path / "new", task, seed=1), bounds=task.inputs)
        bench.agent.runtimes["colours"].swap(new)
        assert (await bench.agent.submit("colours", parts_of(sure(0)))).certified
        assert state_of(bench) == "watching"
        bench.agent.runtimes["colours"].swap(old)  # going back does not make it true again
        assert (await bench.agent.submit("colours", parts_of(sure(0)), wait=False)).why == "alarm"


async def test_an_audit_that_finds_no_room_changes_no_answer_and_counts_as_an_error(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=AUDITED) as bench:
        bench.uplink.full = True
        report = await bench.agent.submit("colours", parts_of(sure(0)))
        assert (report.label, report.state, report.certified) == ("red", "edge", True)
        await until(lambda: bench.agent.promise(bench.agent.runtimes["colours"]).watch.audits)
        watch = bench.agent.promise(bench.agent.runtimes["colours"]).watch
        assert (watch.audits, watch.errors) == (1, 1)
        assert bench.agent.account() == Account(received=1, edge=1)


async def test_clean_audits_raise_no_alarm(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=AUDITED) as bench:
        for _ in range(40):
            await audit(bench, "red")
        watch = bench.agent.promise(bench.agent.runtimes["colours"]).watch
        assert (watch.state, watch.audits, watch.errors) == ("watching", 40, 0)
        assert "0 of 40 audits wrong" in watch.what


async def test_no_caller_chooses_what_is_audited(tmp_path: Path) -> None:
    """The draw is a keyed hash of an id that the agent makes: the same input, asked again, is drawn afresh."""
    async with running_agent(tmp_path, policy=replace(QUIET, audit_rate=0.5)) as bench:
        reports = [await bench.agent.submit("colours", parts_of(sure(0)), group="clip") for _ in range(60)]
        assert len({report.id for report in reports}) == 60
        assert 10 < sum(report.audited for report in reports) < 50
        drawn = {report.id: report.audited for report in reports}
        assert drawn == {id_: is_audited(id_, key="a secret of the test", rate=0.5) for id_ in drawn}
        guessed = [is_audited(id_, key="a guess", rate=0.5) for id_ in drawn]
        assert guessed != list(drawn.values())


async def test_metrics_and_telemetry_show_the_watch(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=AUDITED) as bench:
        await alarmed(bench)
        collector = AgentCollector(metrics=bench.metrics, accounts=lambda: {}, connected=lambda: True)
        assert b'outrider_monitor_alarm{task="colours"} 1.0' in page(collector)
        [message] = telemetry("cam-7", "boot", figures=bench.metrics, ledger=bench.outbox, uptime_s=1.0)
        assert isinstance(message.monitor, MonitorFigures)
        assert message.monitor.alarm
        assert message.monitor.errors == message.monitor.audits > 0
        assert message.monitor.alarm_since_ms is not None


async def test_without_a_certificate_nothing_is_watched(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=AUDITED, certified=False) as bench:
        assert state_of(bench) == "none"
        [message] = telemetry("cam-7", "boot", figures=bench.metrics, ledger=bench.outbox, uptime_s=1.0)
        assert not isinstance(message.monitor, MonitorFigures)


@pytest.mark.parametrize("blind", ["alone", "private", "shadow", "no audits"])
async def test_a_certificate_that_no_audit_can_reach_is_called_unwatched(tmp_path: Path, blind: str) -> None:
    policy = replace(
        AUDITED, mode="shadow" if blind == "shadow" else "live", audit_rate=0.0 if blind == "no audits" else 1.0
    )
    task = make_task(policy=policy, privacy=Privacy(escalate=blind != "private"))
    async with running_agent(tmp_path, task=task) as bench:
        bench.uplink.enabled = blind != "alone"
        watch = bench.agent.promise(bench.agent.runtimes["colours"]).watch
        assert watch.state == "unwatched"
        assert watch.what.startswith("unwatched: ")


# Shadow mode

SHADOW = replace(QUIET, mode="shadow")


async def test_shadow_mode_records_what_it_would_have_sent_and_keeps_it_over_a_restart(tmp_path: Path) -> None:
    async with running_agent(tmp_path, policy=SHADOW) as bench:
        for image in (sure(0), sure(1), unsure(), foreign()):
            report = await bench.agent.submit("colours", parts_of(image))
            assert report.state == "edge"
        await bench.agent.submit("colours", parts_of(sure(2)), insist=True)
        assert bench.uplink.sent.empty()
    async with running_agent(tmp_path, policy=SHADOW) as bench:
        shadow = bench.agent.promise(bench.agent.runtimes["colours"]).shadow
        assert shadow is not None
        assert (shadow.seen, shadow.would_send) == (5, 3)
        entries = await bench.outbox.watches.shadow_entries("colours")
        assert [entry.why for entry in entries] == [
            "requested",
            "unsupported",
            "low_confidence",
            "accepted",
            "accepted",
        ]
        assert entries[-1].score > 0.99


@pytest.mark.parametrize("certified", [True, False])
async def test_shadow_audits_are_a_sample_of_all_inputs_and_tell_what_support_refuses(
    tmp_path: Path, certified: bool
) -> None:
    policy = replace(SHADOW, shadow_audits=True, audit_rate=1.0)
    async with running_agent(tmp_path, policy=policy, certified=certified) as bench:
        sent: list[Escalation | OutboxEntry] = []
        for image in (sure(0), unsure(), foreign()):
            report = await bench.agent.submit("colours", parts_of(image))
            assert (report.state, report.final, report.audited) == ("edge", True, True)
            entry = await bench.uplink.sent.get()
            sent.append(entry)
            await bench.uplink.answer(entry.id, "blue")
        assert [(entry.why, entry.audit) for entry in sent] == [("audit", 1.0), ("audit", 1.0), ("unsupported", 1.0)]
        watch = bench.agent.promise(bench.agent.runtimes["colours"]).watch
        assert watch.audits == int(certified)  # only what was answered under a certificate says something of it


async def test_private_inputs_are_not_sampled_in_shadow_mode(tmp_path: Path) -> None:
    task = make_task(policy=replace(SHADOW, shadow_audits=True, audit_rate=1.0), privacy=Privacy(escalate=False))
    async with running_agent(tmp_path, task=task) as bench:
        await bench.agent.submit("colours", parts_of(sure(0)))
        assert bench.uplink.sent.empty()


def test_the_policy_says_what_an_alarm_does_by_default() -> None:
    assert (Policy().on_alarm, Policy().shadow_audits) == ("escalate", False)
