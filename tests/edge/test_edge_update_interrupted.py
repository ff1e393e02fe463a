"""A process or a machine that ends while a release is tried: the release is refused for its own fault alone; nothing goes on for ever."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from edge_releases import TASK, Device, ShelfSource
from edge_update_child import held

from factory import make_bundle
from outrider_edge.updates.events import (
    Agreed,
    Assigned,
    Booted,
    Event,
    Fetched,
    Loaded,
    Passed,
    Permitted,
    RolledBack,
    Stopped,
    Ticked,
)
from outrider_edge.updates.interrupted import CALM_S, MAX_CRASHES, MAX_CUTS, MAX_LOST, PAUSES_S, pause
from outrider_edge.updates.record import Record
from outrider_edge.updates.rules import MAX_BOOTS, step
from outrider_edge.updates.updater import TaskUpdater
from outrider_edge.updates.waiting import Surroundings, WhenTerms, hold
from outrider_engine.selftest import SelfTestReport, judge

OLD, NEW = "a" * 64, "b" * 64
START = Record(running=OLD, version="1", factory=OLD, boot="b0")
WISH = Assigned(release=NEW, size=100, order=1)
TESTING: tuple[Event, ...] = (WISH, Permitted(), Fetched("2"), Permitted())
LOADING: tuple[Event, ...] = (*TESTING, Passed())
ON_PROBATION: tuple[Event, ...] = (*LOADING, Loaded(), Agreed())


def after(*events: Event, record: Record = START) -> Record:
    for event in events:
        record, _ = step(record, event)
    return record


def again(record: Record, *way: Event) -> Record:
    """The pause over, and on to the next trial."""
    assert record.state == "staged"
    record = after(Ticked(max(PAUSES_S)), record=record)
    return after(Permitted(), *way, record=record)


def tried(way: tuple[Event, ...], boots: list[str]) -> Record:
    """The trial is lost at each of these starts, begun anew after each but the last."""
    record = after(*TESTING, *way)
    for number, boot in enumerate(boots):
        record = again(record, *way) if number else record
        record = after(Booted("a", boot), record=record)
    return record


def test_a_process_that_dies_in_the_self_test_refuses_nothing_and_is_tried_again_after_a_pause() -> None:
    record = tried((), ["b0"])
    assert (record.state, record.refused, record.lost) == ("staged", [], 1)
    for pause_s, boots in zip(PAUSES_S, (["b0"], ["b0", "b0"]), strict=True):
        record = tried((), boots)
        assert "again in" in pause(record)
        assert "again in" in pause(after(Ticked(pause_s - 1), record=record))
        assert not pause(after(Ticked(pause_s), record=record))


def test_after_three_it_is_held_until_the_next_boot_and_tried_once_more_then() -> None:
    record = tried((), ["b0"] * MAX_LOST)
    assert (record.refused, record.outcome) == ([], "")
    assert "next boot" in pause(after(Ticked(86_400.0), record=record))
    record = after(Booted("a", "b0"), record=record)
    assert "next boot" in pause(record), "another start of the process is none of the machine"
    record = after(Booted("a", "b1"), record=record)
    assert not pause(record)
    record = after(Permitted(), Booted("a", "b1"), record=record)
    assert "ordered again" in pause(after(Ticked(86_400.0), Booted("a", "b2"), record=record))
    assert record.refused == []


def test_a_release_that_takes_the_machine_down_each_time_is_not_tried_for_ever() -> None:
    record = tried((), [f"b{number + 1}" for number in range(MAX_LOST)])
    for number in range(20):
        record = after(Booted("a", f"c{number}"), Ticked(3600.0), record=record)
        assert pause(record).endswith("held until it is ordered again")
    assert (record.state, record.refused) == ("staged", [])


@pytest.mark.parametrize(
    "wish",
    [
        Assigned(release=NEW, size=100, order=2),
        Assigned(release=NEW, size=100, counter=9),
        Assigned(release=NEW, size=100, order=1, by_hand=True),
    ],
)
def test_whoever_orders_it_again_has_it_tried_again(wish: Assigned) -> None:
    record = tried((), ["b1", "b2", "b3"])
    assert pause(after(WISH, record=record)), "the same order heard again is none"
    assert not pause(after(wish, record=record))


def test_what_holds_it_is_said_with_a_code() -> None:
    record = tried((), ["b1"])
    found = hold(record, Surroundings(now_ms=0), WhenTerms())
    assert found is not None and (found.code, found.for_good) == ("trial_lost", False)


def test_an_orderly_end_in_the_self_test_counts_against_nobody() -> None:
    record = after(*TESTING, *[Stopped(), Booted("a", "b0"), Stopped(), Booted("a", "b1")] * MAX_LOST)
    assert (record.state, record.lost) == ("testing", 0)


def test_a_process_that_dies_three_times_at_the_load_while_the_machine_stays_up_is_the_releases_fault() -> None:
    record = tried((Passed(),), ["b0"] * (MAX_CRASHES - 1))
    assert (record.state, record.refused) == ("staged", [])
    record = tried((Passed(),), ["b0"] * MAX_CRASHES)
    assert (record.state, record.refused, record.code) == ("refused", [NEW], "load_crash")


def test_power_cuts_at_the_load_refuse_nothing() -> None:
    record = tried((Passed(),), ["b1", "b2", "b3"])
    assert (record.state, record.refused, record.crashes) == ("staged", [], 0)
    assert "ordered again" in pause(record)


def test_whoever_waits_loaded_for_its_companions_may_lose_its_power_as_often_as_it_likes() -> None:
    record = after(*LOADING, *itertools.chain(*([Loaded(), Booted("a", f"b{n}")] for n in range(9))))
    assert (record.state, record.lost) == ("armed", 0)


def test_a_crash_loop_on_probation_is_the_releases_fault() -> None:
    record = after(*ON_PROBATION, *[Booted("b", "b0")] * MAX_BOOTS, RolledBack())
    assert (record.refused, record.code, record.outcome) == ([NEW], "crash_loop", "rolled_back")


def test_power_cuts_on_probation_are_not_but_it_goes_back_when_none_of_them_leaves_it_time() -> None:
    cuts = [Booted("b", f"b{number + 1}") for number in range(MAX_CUTS)]
    calm = after(*ON_PROBATION, *itertools.chain(*([cut, Ticked(CALM_S)] for cut in cuts * 4)))
    assert (calm.state, calm.lost) == ("probation", 0)
    assert after(*ON_PROBATION, *cuts[:-1]).state == "probation"
    record = after(*ON_PROBATION, *cuts)
    assert (record.state, record.code) == ("rollback", "power_loop")
    record = after(RolledBack(), record=record)
    assert (record.state, record.running, record.refused, record.outcome) == ("idle", OLD, [], "gave_up")


def test_an_assignment_without_an_order_that_was_given_up_is_not_begun_again_by_hearing_it_again() -> None:
    wish = Assigned(release=NEW, size=100, counter=3)
    way = (wish, *ON_PROBATION[1:])
    record = after(*way, *[Booted("b", f"b{number + 1}") for number in range(MAX_CUTS)], RolledBack())
    assert (record.state, record.outcome) == ("idle", "gave_up")
    assert after(wish, record=record) == record
    for anew in (Assigned(release=NEW, size=100, counter=4), Assigned(release=NEW, size=100, counter=3, by_hand=True)):
        assert after(anew, record=record).state == "offered"
    assert after(Assigned(release="c" * 64, size=100, counter=4), wish, record=record).offered == "c" * 64


def test_reboots_in_good_order_are_no_power_cuts() -> None:
    reboots = [(Stopped(), Booted("b", f"b{number}")) for number in range(3 * MAX_CUTS)]
    assert after(*ON_PROBATION, *itertools.chain(*reboots)).state == "probation"


# a real device


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "v2", TASK, seed=1, version="2")


def dies_testing(folder: Path, bundle: Path, machine: str) -> None:
    """A process is killed with SIGKILL while its self-test runs."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_update_child", str(folder), str(bundle), machine],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.stdout is not None
    said = child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()
    assert said == "testing\n"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - the record rings no bell
            await asyncio.sleep(0.01)


class Lives(Device):
    """A device that is started in one boot of the machine or another."""

    updater: TaskUpdater | None = None

    async def live(self, machine: str) -> TaskUpdater:
        await self.end()
        self.updater = self.run(machine=machine, hold=held)
        return self.updater

    async def end(self) -> None:
        if self.updater is not None:
            await self.updater.stop()


@pytest.fixture
async def device(tmp_path: Path, bundle: Path) -> AsyncIterator[Lives]:
    device = Lives(tmp_path, ShelfSource(bundle))
    yield device
    await device.end()


async def test_a_release_survives_kills_in_its_self_test_and_is_committed_after_the_next_boot(
    tmp_path: Path, device: Lives, bundle: Path
) -> None:
    for _ in range(MAX_LOST):
        await asyncio.to_thread(dies_testing, tmp_path, bundle, "b0")
    updater = await device.live("b0")
    await until(lambda: updater.report().code == "trial_lost")
    assert (updater.record.state, updater.record.refused, device.tests) == ("staged", [], 0)
    updater = await device.live("b1")
    await until(lambda: updater.record.state == "probation")
    assert device.tests == 1


@pytest.mark.slow
async def test_a_release_with_which_the_machine_went_down_waits_for_a_new_order(
    tmp_path: Path, device: Lives, bundle: Path
) -> None:
    for number in range(MAX_LOST):
        await asyncio.to_thread(dies_testing, tmp_path, bundle, f"b{number + 1}")
    updater = await device.live("b9")
    updater.assign(device.wish(bundle))
    await until(lambda: updater.report().code == "trial_lost")
    assert (device.tests, updater.record.refused) == (0, [])
    updater.assign(device.wish(bundle, counter=2))
    await until(lambda: updater.record.state == "probation")


@pytest.mark.parametrize("reason", ["interrupted", "no_child"])
async def test_a_self_test_that_says_nothing_of_the_release_is_made_again(
    device: Lives, bundle: Path, reason: str
) -> None:
    device.test_report = SelfTestReport(ok=False, reason=reason)
    updater = await device.live("b0")
    updater.assign(device.wish(bundle))
    await until(lambda: device.tests > 3)
    assert (updater.record.state, updater.record.refused) == ("testing", [])
    device.test_report = None
    await until(lambda: updater.record.state == "probation")


@pytest.mark.parametrize(("reason", "tests"), [("timeout", 2), ("out_of_memory", 2), ("crashed", 1), ("bad_golden", 1)])
async def test_a_child_that_ends_badly_while_the_agent_lives_is_the_releases_fault(
    device: Lives, bundle: Path, reason: str, tests: int
) -> None:
    device.test_report = SelfTestReport(ok=False, reason=reason)
    updater = await device.live("b0")
    updater.assign(device.wish(bundle))
    await until(lambda: updater.record.state == "refused")
    assert (device.tests, updater.record.code) == (tests, reason)


@pytest.mark.parametrize(
    ("number", "reason"), [(15, "interrupted"), (2, "interrupted"), (11, "crashed"), (9, "out_of_memory")]
)
def test_a_child_that_was_ended_from_outside_did_not_crash(number: int, reason: str) -> None:
    assert judge(-number, b"").reason == reason
