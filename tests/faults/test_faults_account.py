"""Every input ends in exactly one state on both sides, with the right answer, whoever is killed in the middle."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running import LARGE_SAYS, System

from factory import LABELS, foreign, parts_of, sure, unsure
from outrider.client import Client
from outrider_wire.errors import OutriderError
from outrider_wire.report import TERMINAL, Account, AnswerReport, account_from

pytestmark = pytest.mark.broker
INPUTS = 300


def sample(number: int) -> tuple[bytes, str]:
    """An image and its right answer: sure ones stay on the device, the rest is the large model's."""
    match number % 5:
        case 0 | 1:
            label = number % len(LABELS)
            return sure(label, shade=number % 20), LABELS[label]
        case 2 | 3:
            return unsure(shade=number % 20), LARGE_SAYS
        case _:
            return foreign(seed=number), LARGE_SAYS


def wait_for(what: str, condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s"
        time.sleep(0.1)


def cloud_account(system: System) -> Account:
    with urllib.request.urlopen(f"http://127.0.0.1:{system.cloud_port}/v1/account", timeout=5) as reply:
        return account_from(json.load(reply))


def play(client: Client, numbers: range, asked: Callable[[int], None]) -> dict[int, AnswerReport]:
    """Asks for each sample, four at a time; what cannot be reached has no report."""
    reports: dict[int, AnswerReport] = {}

    def ask(number: int) -> None:
        asked(number)
        try:
            reports[number] = client.ask("colours", parts_of(sample(number)[0]), wait=False)
        except OutriderError:
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, numbers))
    return reports


def check_final(client: Client, reports: dict[int, AnswerReport]) -> None:
    """Every report has become final, in one terminal state, with the right label."""
    for number, first in reports.items():
        report = first if first.final else client.get(first.id)
        assert report.state in TERMINAL, f"input {number} is {report.state}"
        if report.state in ("edge", "cloud"):
            assert report.label == sample(number)[1], f"input {number} ({report.state}, {report.why})"


def settled(client: Client) -> Account:
    wait_for("nothing pending", lambda: client.account().pending == 0)
    return client.account()


def test_the_account_adds_up_when_the_cloud_is_killed_in_the_middle(tmp_path: Path) -> None:
    with System(tmp_path) as system:
        client = system.start_agent("cam-1")
        middle = threading.Event()
        player = ThreadPoolExecutor(1).submit(
            play, client, range(INPUTS), lambda number: middle.set() if number == INPUTS // 3 else None
        )
        assert middle.wait(60)
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


def test_the_account_adds_up_when_an_agent_is_killed_in_the_middle(tmp_path: Path) -> None:
    with System(tmp_path) as system:
        client = system.start_agent("cam-1")
        middle = threading.Event()
        player = ThreadPoolExecutor(1).submit(
            play, client, range(INPUTS), lambda number: middle.set() if number == INPUTS // 3 else None
        )
        assert middle.wait(60)
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


def test_with_the_cloud_gone_the_device_answers_in_time_and_says_so(tmp_path: Path) -> None:
    with System(tmp_path) as system:
        client = system.start_agent("cam-1")
        system.processes.kill("cloud")
        started = time.monotonic()
        report = client.ask("colours", parts_of(unsure()), answer_within_ms=500)
        assert time.monotonic() - started < 5
        assert report.answered_by == "edge" and not report.certified and report.note
        system.start_cloud()
        wait_for("the late answer", lambda: client.get(report.id).state == "cloud")
        assert client.get(report.id).late and client.account().adds_up
