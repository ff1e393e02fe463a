"""`outrider sim faults` as its users run it: real processes, faults really caused, and an auditor that finds nothing amiss.

Every fault of the table is played; by default only the kills and the quickest of the others. The negative control is a device
whose outbox is in memory: the simulation must see what a kill loses there.
"""

import json
import subprocess
import sys
from typing import Any

import pytest
from absent import skip_without
from mosquitto import require

from outrider.sim.engine import Figures, Order, play
from outrider.sim.faults import FAULTS, POWER_CUTS, impossible
from outrider.sim.world import Kind

pytestmark = pytest.mark.broker
KEYS = {"rounds", "accepted", "answered", "expired", "lost", "duplicated"}
BROKERS: tuple[Kind, ...] = ("embedded", "mosquitto")

LINES = [name for name in FAULTS if name.startswith(("link-", "broker-")) or name == "kill-all"]
"""Where the broker's own ways matter: played with both."""
CASES: list[tuple[str, Kind]] = [
    *((name, "embedded") for name in FAULTS if name != "kill" and "mosquitto" not in FAULTS[name].needs),
    *((name, "mosquitto") for name in LINES),
]


def outrider(*arguments: str, timeout_s: float = 550) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "outrider", "sim", "faults", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def played(fault: str, *, rounds: int | None = None, broker: Kind = "embedded", **order: Any) -> Figures:
    """One fault, on a system of its own."""
    ((_, figures),) = play(Order(names=[fault], rounds=rounds, broker=broker, **order))
    return figures


@pytest.fixture(autouse=True)
def mosquitto_at_hand(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own mosquitto, where a test is played with one; skipped, loudly, where there is none."""
    if "broker" in request.fixturenames and request.getfixturevalue("broker") == "mosquitto":
        monkeypatch.setenv("OUTRIDER_MOSQUITTO", str(require()))


def check(figures: Figures) -> None:
    assert figures.sound, figures.findings
    assert figures.felt, "no log shows that the fault was caused"
    assert 0 < figures.accepted == figures.answered + figures.expired + figures.refused
    assert figures.answered > 0


@pytest.mark.timeout(600)
def test_kills_and_a_starved_cloud_lose_nothing_and_answer_nothing_twice() -> None:
    done = outrider("--only", "kill", "--only", "memory", "--json", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.strip().splitlines()
    found: dict[str, dict[str, Any]] = json.loads(line)
    assert set(found) == {"kill", "memory"} and found["kill"]["rounds"] == 20
    assert found["memory"]["felt"]
    for figures in found.values():
        assert set(figures) >= KEYS
        assert (figures["lost"], figures["duplicated"]) == (0, 0)
        assert 0 < figures["accepted"] == figures["answered"] + figures["expired"] + figures["refused"]


def test_what_cannot_be_caused_is_said_and_what_is_no_fault_is_refused() -> None:
    unknown = outrider("--only", "earthquake")
    assert unknown.returncode == 2 and "power-cut-enqueue" in unknown.stderr
    refused = outrider("--only", "broker-remembers")
    assert refused.returncode == 2 and "--broker mosquitto" in refused.stderr
    listed = outrider("--list", "--json")
    assert set(json.loads(listed.stdout)) == {*FAULTS, *POWER_CUTS}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "broker"), CASES)
def test_each_fault_loses_nothing_and_answers_nothing_twice(name: str, broker: Kind) -> None:
    if problem := impossible(name, broker):
        skip_without("FUSE", problem)
    figures = played(name, broker=broker)
    check(figures)
    if name == "cloud-away":
        assert figures.expired > 0, "the hasty device's escalations were worth having for half an hour"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("broker", BROKERS)
def test_two_hundred_kills_lose_nothing_and_answer_nothing_twice(broker: Kind) -> None:
    figures = played("kill", rounds=200, broker=broker)
    check(figures)
    assert figures.rounds == 200


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_device_that_keeps_nothing_on_its_disk_is_seen_to_lose() -> None:
    figures = played("kill-all", rounds=3, durability="memory")
    assert figures.lost > 0
    assert any("is unknown to this day" in finding for finding in figures.findings)
