"""Every input ends in exactly one state on both sides, with the right answer, whoever is killed in the middle."""

import time
from pathlib import Path

import pytest
from accounting import check_final, cloud_account, in_the_middle, sample, settled, wait_for
from running import System

from factory import parts_of, unsure

pytestmark = pytest.mark.broker
INPUTS = 300


def test_the_account_adds_up_when_the_cloud_is_killed_in_the_middle(tmp_path: Path, broker_kind: str) -> None:
    with System(tmp_path, broker_kind=broker_kind) as system:
        client = system.start_agent("cam-1")
        with in_the_middle(client, INPUTS) as player:
            system.processes.kill("cloud")
            time.sleep(0.5)
            system.start_cloud()
            reports = player.result(120)
        account = settled(client)

        assert len(reports) == INPUTS
        check_final(client, reports)
        assert account.adds_up and account.received == INPUTS
        assert account.cloud > 0 and account.edge > 0 and account.expired == account.refused == 0
        cloud = cloud_account(system)
        assert cloud.adds_up and cloud.pending == 0
        assert cloud.cloud == account.cloud + account.audited


def test_the_account_adds_up_when_an_agent_is_killed_in_the_middle(tmp_path: Path, broker_kind: str) -> None:
    with System(tmp_path, broker_kind=broker_kind) as system:
        client = system.start_agent("cam-1")
        with in_the_middle(client, INPUTS) as player:
            system.processes.kill("cam-1")
            client = system.start_agent("cam-1")
            reports = player.result(120)
        account = settled(client)

        assert account.adds_up
        escalated = {number: report for number, report in reports.items() if not report.final}
        assert escalated, "something was under way"
        for number, first in escalated.items():
            report = client.get(first.id)
            assert report.state == "cloud", f"input {number} is {report.state}: accepted before the kill, so not lost"
            assert report.label == sample(number)[1]
        assert cloud_account(system).adds_up and cloud_account(system).pending == 0


def test_with_the_cloud_gone_the_device_answers_in_time_and_says_so(tmp_path: Path, broker_kind: str) -> None:
    with System(tmp_path, broker_kind=broker_kind) as system:
        client = system.start_agent("cam-1")
        system.processes.kill("cloud")
        report = client.ask("colours", parts_of(unsure()), answer_within_ms=500)  # nobody else will answer it
        assert report.answered_by == "edge" and not report.certified and report.note
        system.start_cloud()
        wait_for("the late answer", lambda: client.get(report.id).state == "cloud")
        assert client.get(report.id).late and client.account().adds_up
