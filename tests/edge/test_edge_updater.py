"""Updates of one task, from the assignment to the end of the probation, with real models and a disk whose power may go."""

import asyncio
import contextlib
import dataclasses
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edge_entries import until
from edge_releases import PATIENT, TASK, CutFolder, Device, FullFolder, PowerCut, ShelfSource, load

from factory import make_bundle, make_task, parts_of, sure
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.updates.probation import ProbationTerms
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.updates.watching import Senses
from outrider_engine.selftest import SelfTestReport, run_selftest
from outrider_wire.manifest import MANIFEST_FILE

SECOND: dict[str, Any] = {"seed": 2, "version": "2"}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path, ShelfSource(make_bundle(tmp_path / "second", TASK, **SECOND)))


@pytest.fixture
def second(tmp_path: Path, device: Device) -> Path:
    return tmp_path / "second"


async def ask(device: Device, count: int) -> set[str]:
    """Versions that answered."""
    return {(await device.runtime.ask(parts_of(sure()))).model.manifest.version for _ in range(count)}


def on_probation(updater: TaskUpdater, version: str = "2") -> bool:
    report = updater.report()
    return report.state == "probation" and report.version == version


def states(device: Device) -> list[str]:
    seen = [report.state for report in device.told]
    return [state for place, state in enumerate(seen) if place == 0 or seen[place - 1] != state]


async def test_an_update_is_fetched_tested_swapped_watched_and_committed(device: Device, second: Path) -> None:
    updater = device.run(selftest=run_selftest)
    assert await ask(device, 1) == {"1"}
    updater.assign(device.wish(second))
    await until(lambda: on_probation(updater))
    assert await ask(device, PATIENT.probation_answers) == {"2"}
    await until(lambda: updater.report().state == "committed")
    await until(lambda: states(device)[-1] == "committed")
    assert states(device) == ["offered", "fetching", "staged", "testing", "armed", "probation", "committed"]
    report = updater.report()
    assert (report.version, report.slot, report.counter, report.running) == ("2", "b", 1, device.wish(second).release)
    await updater.stop()
    assert device.boot().model.manifest.version == "2"


async def test_run_time_alone_ends_a_probation_too(device: Device, second: Path) -> None:
    updater = device.run(terms=UpdateTerms(probation_answers=10**6, probation_s=0.1))
    updater.assign(device.wish(second))
    await until(lambda: updater.report().state == "committed")
    await updater.stop()


async def test_only_missing_files_are_fetched(device: Device, tmp_path: Path) -> None:
    third = make_bundle(tmp_path / "third", TASK, version="3")  # the first one's model under another manifest
    device.source.add(third)
    updater = device.run()
    updater.assign(device.wish(third))
    await until(lambda: on_probation(updater, "3"))
    assert set(device.source.pulled) == {device.wish(third).release}
    await updater.stop()


async def test_a_failure_on_live_input_rolls_back_at_once_and_for_good(device: Device, second: Path) -> None:
    updater = device.run()
    before = device.runtime.model
    updater.assign(device.wish(second))
    await until(lambda: on_probation(updater))
    device.runtime.failed += 1
    await until(lambda: updater.report().state == "refused")
    assert device.runtime.model is before
    assert updater.report().refused == [device.wish(second).release]
    await updater.stop()

    updater = device.run()
    updater.assign(device.wish(second, counter=9))
    await asyncio.sleep(0.1)
    report = updater.report()
    assert (report.state, report.version, report.reason) == ("refused", "1", "the model failed on live input")
    assert device.source.pulled[device.wish(second).release] == 1
    await updater.stop()


async def test_a_failed_self_test_refuses_the_release_with_its_reason(device: Device, second: Path) -> None:
    device.test_report = SelfTestReport(ok=False, reason="timeout", detail="the self-test took more than 60 s")
    updater = device.run()
    updater.assign(device.wish(second))
    await until(lambda: updater.report().state == "refused")
    assert updater.report().reason == "self-test: the self-test took more than 60 s"
    assert await ask(device, 1) == {"1"}
    await updater.stop()


async def test_a_release_for_another_task_is_refused(device: Device, tmp_path: Path) -> None:
    foreign = make_bundle(tmp_path / "foreign", make_task("animals"))
    device.source.add(foreign)
    updater = device.run()
    updater.assign(device.wish(foreign))
    await until(lambda: updater.report().state == "refused")
    assert "animals" in updater.report().reason
    assert device.tests == 0
    await updater.stop()


async def test_a_release_that_does_not_give_its_golden_answers_is_refused(device: Device, tmp_path: Path) -> None:
    lying = make_bundle(tmp_path / "lying", TASK, seed=5, bias=3.0)
    honest = make_bundle(tmp_path / "honest", TASK, seed=5)
    manifest = (lying / MANIFEST_FILE).read_text()
    for name in ("golden.msgpack",):
        old, new = (next(e for e in _files(path) if e["path"] == name) for path in (lying, honest))
        manifest = manifest.replace(str(old["sha256"]), str(new["sha256"]))
        (lying / name).write_bytes((honest / name).read_bytes())
    (lying / MANIFEST_FILE).write_text(manifest)
    device.source.add(lying)
    updater = device.run(selftest=run_selftest)
    updater.assign(device.wish(lying))
    await until(lambda: updater.report().state == "refused")
    assert "golden" in updater.report().reason
    await updater.stop()


async def test_a_cloud_that_is_away_is_asked_again(device: Device, second: Path) -> None:
    device.source.away = 3
    updater = device.run()
    updater.assign(device.wish(second))
    await until(lambda: on_probation(updater))
    assert "nobody answers" in {report.reason for report in device.told}
    await updater.stop()


async def test_a_release_that_keeps_coming_damaged_is_refused(device: Device, second: Path) -> None:
    wish = device.wish(second)
    for digest, data in device.source.blobs.items():
        if digest != wish.release:
            device.source.blobs[digest] = data[::-1]
    updater = device.run()
    updater.assign(wish)
    await until(lambda: updater.report().state == "refused")
    assert updater.report().refused == [wish.release]
    await updater.stop()


async def test_a_newer_wish_replaces_one_that_cannot_be_fetched(device: Device, second: Path, tmp_path: Path) -> None:
    never = make_bundle(tmp_path / "never", TASK, seed=9)
    updater = device.run()
    updater.assign(device.wish(never, counter=1))
    await until(lambda: updater.report().state == "fetching")
    updater.assign(device.wish(second, counter=2))
    await until(lambda: on_probation(updater))
    assert updater.report().version == "2"
    await updater.stop()


async def test_a_wish_that_comes_in_a_probation_is_granted_after_it(
    device: Device, second: Path, tmp_path: Path
) -> None:
    third = make_bundle(tmp_path / "third", TASK, seed=3, version="3")
    device.source.add(third)
    updater = device.run()
    updater.assign(device.wish(second, counter=1))
    await until(lambda: on_probation(updater))
    updater.assign(device.wish(third, counter=2))
    await ask(device, PATIENT.probation_answers)
    await until(lambda: on_probation(updater, "3"))
    await updater.stop()


async def test_a_restart_in_a_probation_goes_on_with_the_new_model(device: Device, second: Path) -> None:
    updater = device.run()
    updater.assign(device.wish(second))
    await until(lambda: on_probation(updater))
    await updater.stop()
    updater = device.run()
    assert await ask(device, PATIENT.probation_answers) == {"2"}
    await until(lambda: updater.report().state == "committed")
    await updater.stop()


@pytest.mark.parametrize("healthy", [True, False], ids=["update", "rollback"])
async def test_power_that_goes_at_any_change_leaves_a_working_model(tmp_path: Path, healthy: bool) -> None:
    second = make_bundle(tmp_path / "second", TASK, **SECOND)
    whole = await _run_until_cut(Device(tmp_path / "whole", ShelfSource(second)), second, 10**6, healthy)
    assert whole > 5
    for cut in range(whole):
        device = Device(tmp_path / f"cut-{cut}", ShelfSource(second))
        await _run_until_cut(device, second, cut, healthy)
        shutil.copytree(device.folder, tmp_path / f"copy-{cut}")
        start = Device(tmp_path / f"copy-{cut}").boot()
        assert start.model.digest == start.record.running, cut
        assert start.record.running not in start.record.refused
        await _run_until_cut(device, second, 10**6, healthy)
        expected = ("committed", "2") if healthy else ("refused", "1")
        record = device.boot().record
        assert (record.state, record.version) == expected, cut


async def _run_until_cut(device: Device, bundle: Path, cut: int, healthy: bool) -> int:
    """Starts, updates, and stops dead at the cut or at the end; how many changes were made."""
    try:
        updater = device.run(cut=cut)
    except PowerCut:
        return cut
    folder = device.folder_in_use
    assert isinstance(folder, CutFolder)
    updater.assign(device.wish(bundle))
    while not folder.dead and updater.report().state not in ("committed", "refused"):
        if updater.report().state == "probation" and device.runtime.model.manifest.version == "2":
            device.runtime.served += 100 * healthy
            device.runtime.failed += not healthy
        await asyncio.sleep(0.002)
    await _kill(updater)
    return cut - folder.left


async def _kill(updater: TaskUpdater) -> None:
    with contextlib.suppress(PowerCut):
        await updater.stop()


def _files(bundle: Path) -> list[dict[str, object]]:
    import json

    files: list[dict[str, object]] = json.loads((bundle / MANIFEST_FILE).read_bytes())["files"]
    return files


@pytest.mark.parametrize("healthy", [True, False], ids=["update", "rollback"])
async def test_a_disk_that_is_full_at_any_step_delays_an_update_and_never_the_answers(
    tmp_path: Path, healthy: bool
) -> None:
    second = make_bundle(tmp_path / "second", TASK, **SECOND)
    full, changes = 1, 10**6
    while full <= changes:
        device = Device(tmp_path / f"full-{full}", ShelfSource(second))
        start = device.boot()
        folder = FullFolder(folder=start.folder.folder, full=full)
        runtime = TaskRuntime(task=TASK, model=start.model)
        updater = TaskUpdater(
            start=dataclasses.replace(start, folder=folder),
            runtime=runtime,
            source=device.source,
            load=load,
            changed=lambda: None,
            terms=PATIENT,
            selftest=lambda _: SelfTestReport(ok=True),
        )
        updater.start()
        updater.assign(device.wish(second))
        async with asyncio.timeout(30):
            while updater.report().state not in ("committed", "refused"):
                assert (await runtime.ask(parts_of(sure()))).label
                if updater.record.state == "probation":
                    runtime.failed += not healthy
                await asyncio.sleep(0.002)
        await updater.stop()
        assert (updater.record.state, updater.record.version) == (("committed", "2") if healthy else ("refused", "1"))
        assert device.boot().model.manifest.version == ("2" if healthy else "1")
        full, changes = full + 2, folder.changes
    assert changes > 8


async def test_a_model_that_says_something_else_than_the_one_before_is_rolled_back(
    device: Device, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", TASK, seed=1, bias=50.0, version="2")
    device.source.add(other)
    terms = UpdateTerms(probation_answers=10**6, probation_s=60.0, ask_s=0.01, watch=ProbationTerms(agreement=0.9))
    updater = device.run(terms=terms)
    updater.assign(device.wish(other))
    await until(lambda: on_probation(updater))
    async with asyncio.timeout(30):
        while updater.report().state != "refused":
            for number in range(3):
                await device.runtime.ask(parts_of(sure(number)))
            await asyncio.sleep(0.001)
    assert updater.record.code == "live_disagreement"
    assert device.runtime.model.manifest.version == "1"
    await updater.stop()


async def test_the_watch_over_the_new_certificate_ends_a_probation_too(device: Device, second: Path) -> None:
    alarm = False
    terms = UpdateTerms(probation_answers=10**6, ask_s=0.01)
    updater = device.run(terms=terms, senses=Senses(alarm=lambda: alarm))
    updater.assign(device.wish(second))
    await until(lambda: on_probation(updater))
    alarm = True
    await until(lambda: updater.report().state == "refused")
    assert updater.record.code == "live_risk"
    await updater.stop()


async def test_a_bundle_that_asks_for_all_memory_is_refused_by_the_child_and_the_agent_lives(
    device: Device, tmp_path: Path
) -> None:
    greedy = make_bundle(tmp_path / "greedy", TASK, seed=4, version="4")
    device.source.add(greedy)
    updater = device.run(
        selftest=partial(run_selftest, memory_mb=60)
    )  # less than any model needs: as a bomb that asks for more
    updater.assign(device.wish(greedy))
    await until(lambda: updater.report().state == "refused")
    assert updater.record.code in ("out_of_memory", "crashed", "timeout") or "self-test" in updater.record.reason
    assert await ask(device, 1) == {"1"}
    await updater.stop()


async def test_a_child_that_is_killed_refuses_the_release_and_nothing_else(device: Device, second: Path) -> None:
    crash = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    updater = device.run(selftest=partial(run_selftest, command=crash))
    updater.assign(device.wish(second))
    await until(lambda: updater.report().state == "refused")
    assert updater.record.code == "crashed" and "SIGSEGV" in updater.record.reason
    assert await ask(device, 1) == {"1"}
    await updater.stop()
