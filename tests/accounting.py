"""Traffic whose every right answer is known, and the account that must come of it, for tests that break a whole system."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from running import LARGE_SAYS, System

from factory import LABELS, foreign, parts_of, sure, unsure
from outrider.client import Client
from outrider_wire.errors import OutriderError
from outrider_wire.report import TERMINAL, Account, AnswerReport, account_from


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


def settled(client: Client, within_s: float = 60.0) -> Account:
    wait_for("nothing pending", lambda: client.account().pending == 0, within_s)
    return client.account()


@contextmanager
def in_the_middle(client: Client, inputs: int) -> Iterator[Future[dict[int, AnswerReport]]]:
    """Asks for ``inputs`` samples in the background; the block begins when a third of them has been asked."""
    middle = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        player = pool.submit(
            play, client, range(inputs), lambda number: middle.set() if number == inputs // 3 else None
        )
        assert middle.wait(60)
        yield player
