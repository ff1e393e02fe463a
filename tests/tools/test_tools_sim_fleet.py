"""A fleet of real updaters: a bad release is stopped and taken back, a good one arrives, and no device is ever without a model."""

import json
import os
import threading
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from outrider.sim.fleet import plans
from outrider.sim.fleet.fates import LOST, fates_of
from outrider.sim.fleet.fresh_start import trouble
from outrider.sim.fleet.goods import TASK, Scene, make_releases
from outrider.sim.fleet.picture import draw_rollouts
from outrider.sim.fleet.power import Power, PowerCutError
from outrider.sim.fleet.running import FleetOrder, simulate
from outrider.sim.fleet.shelf import Shelf
from outrider.sim.fleet.timeline import FleetFigures, Mark, Sample, Timeline
from outrider_cloud.rollout import bounds
from outrider_cloud.rollout.verdict import FIGURES
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import start_slots
from outrider_engine.selftest import run_selftest
from outrider_wire.errors import OperatorSetupError
from outrider_wire.rollout import PlannedRelease, stage_of

FLEET = plans.profiles_of([f"cam-{place:03}" for place in range(200)])
RELEASE = PlannedRelease(task=TASK.name, release="0" * 64, size=100, counter=2)
KEYS = [
    "devices",
    "without_model",
    "bad_release_reach",
    "good_release_reach",
    "bytes_ratio",
    "requests_refused",
    "ends",
]


def members(make: object, salt: int) -> list[Counter[str]]:
    """By stage of a plan, how many devices of each profile it has."""
    plan = make("r", RELEASE, FLEET, salt=f"a salt of sixteen {salt}", now_ms=0)  # type: ignore[operator]
    found: list[Counter[str]] = [Counter() for _ in plan.groups]
    for device, profile in FLEET.items():
        stage = stage_of(plan, device, {"profile": profile})
        assert stage is not None, "nobody is left out"
        found[stage][profile] += 1
    return found


@pytest.mark.parametrize("salt", range(20))
def test_whichever_profile_fails_its_canaries_halt_before_a_twentieth_of_the_fleet_is_reached(salt: int) -> None:
    stages = members(plans.by_profile, salt)
    for stage, profile in enumerate(plans.PROFILES):
        assert stages[stage] == Counter({profile: plans.CANARIES})
        began = sum(sum(each.values()) for each in stages[: stage + 1])
        assert began <= 0.05 * len(FLEET)
        assert bounds.exceeds(plans.CANARIES, began, 0.02, alpha=0.05 / len(FIGURES), devices=3)


def test_the_naive_plan_reaches_a_tenth_before_three_devices_of_a_small_profile_could_have_failed() -> None:
    late = 0
    for salt in range(100):
        first = members(plans.naive, salt)[0]
        late += first["night"] < 3  # the next stage, of a tenth of the fleet, begins
    assert late == 100


def test_the_shares_of_faults_are_what_is_said() -> None:
    fates = fates_of(list(FLEET), seed=3)
    assert sum(bool(fate.lost) for fate in fates.values()) == LOST * 200 == 4
    assert fates == fates_of(list(FLEET), seed=3) != fates_of(list(FLEET), seed=4)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory):
    return make_releases(tmp_path_factory.mktemp("goods") / "releases")


def test_the_bad_release_passes_its_self_test_and_is_wrong_in_the_dark_alone(releases) -> None:
    shelf = Shelf()
    assert run_selftest(releases["bad"].folder).ok
    from outrider_engine.bundle import open_bundle

    for version, wrong in (("first", 0), ("bad", 50), ("good", 0)):
        model = shelf.load(open_bundle(releases[version].folder))
        for profile in plans.PROFILES:
            scene, found = Scene(profile=profile, seed=1), 0
            for _ in range(50):
                parts, right = scene.next()
                [said] = model.infer([model.prepare(parts)])
                found += model.labels[int(said.probabilities.argmax())] != right
            assert found == (wrong if profile == "night" else 0), (version, profile)


def test_a_device_without_a_model_is_seen(releases, tmp_path: Path) -> None:
    shelf, slots = Shelf(), SlotFolder(folder=tmp_path / "slots", task=TASK)
    assert trouble(slots.folder, TASK, shelf.load), "an empty disk"
    start_slots(folder=slots, factory=releases["first"].folder, load=shelf.load)
    before = {path: path.read_bytes() for path in slots.folder.rglob("*") if path.is_file()}
    assert trouble(slots.folder, TASK, shelf.load) == ""
    assert before == {path: path.read_bytes() for path in slots.folder.rglob("*") if path.is_file()}, "it only looks"
    model = slots.path("a") / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    assert trouble(slots.folder, TASK, shelf.load)


def test_after_a_cut_nothing_is_written_and_a_full_disk_takes_nothing_new(tmp_path: Path) -> None:
    ends: list[str] = []
    looks: list[int] = []

    def life() -> None:
        root = tmp_path / "device"
        power = Power(
            root=str(root), watched=str(root / "slots"), look=lambda: looks.append(1), gone=lambda: ends.append("off")
        )
        power.owns()
        (root / "slots").mkdir(parents=True)
        (tmp_path / "another's").write_bytes(b"is none of its business")
        power.fill_after(0, lambda: ends.append("full"))
        for name in ("one", "two"):
            with pytest.raises(OSError, match="No space left"):
                (root / name).write_bytes(b"")
        power.free()
        power.cut_after(2)
        (root / "slots" / "one").write_bytes(b"1")
        (root / "slots" / "one").rename(root / "slots" / "two")
        with pytest.raises(PowerCutError):
            (root / "slots" / "two").unlink()
        with pytest.raises(PowerCutError):
            os.replace(root / "slots" / "two", root / "slots" / "three")  # noqa: PTH105 - what is tried
        assert [path.name for path in (root / "slots").iterdir()] == ["two"], "to read needs no power here"

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    assert ends == ["full", "off"]
    assert len(looks) == 5, "mkdir (tried twice, for its parents), open, rename, unlink"
    (tmp_path / "device" / "later").write_bytes(b"the test's own")


def test_what_was_not_kept_is_said() -> None:
    figures = FleetFigures(
        devices=200,
        without_model=1,
        bad_release_reach=0.06,
        good_release_reach=0.97,
        bytes_ratio=0.1,
        requests_refused=2,
    )
    assert len(figures.broken()) == 4
    assert list(json.loads(msgspec.json.encode(figures))) == KEYS


def test_the_rollouts_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    samples = [Sample(at_s=at, running={"first": 3 - at, "bad": at}, off=0, under_way=1) for at in range(3)]
    timeline = Timeline(samples=samples, marks=[Mark(at_s=1.0, rollout="r-bad", what="halted")])
    draw_rollouts(timeline, devices=3, speed=60.0, title="three devices", file=tmp_path / "fleet.png")
    assert (tmp_path / "fleet.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OperatorSetupError, match="cannot be written"):
        draw_rollouts(timeline, devices=3, speed=60.0, title="", file=tmp_path / "nowhere" / "fleet.png")


@pytest.mark.broker
def test_three_devices_give_back_a_release_that_fails_in_the_dark() -> None:
    story = simulate(FleetOrder(devices=3, profile="night", good=False), lambda _what, _share: None)
    bad = story.releases["bad"].digest
    assert story.ends["r-bad"].startswith("halted"), story.ends
    assert [bad in each.books.ran for each in story.devices] == [True] * 3
    assert [each.runs for each in story.devices] == [story.releases["first"].digest] * 3
    assert story.figures.without_model == story.figures.requests_refused == 0
    assert all(each.books.looks > 20 and each.books.asked > 40 for each in story.devices)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twelve_devices_take_the_good_release_and_give_the_bad_one_back() -> None:
    story = simulate(FleetOrder(devices=12), lambda _what, _share: None)
    figures = story.figures
    assert figures.without_model == figures.requests_refused == 0
    assert figures.good_release_reach == 1.0 and story.ends["r-good"] == "finished"
    assert round(12 * figures.bad_release_reach) <= story.canaries
    assert 0 < figures.bytes_ratio < 0.5
    assert all(each.books.looks > 20 for each in story.devices)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_hundred_devices_keep_every_promise_and_the_naive_plan_does_not() -> None:
    story = simulate(FleetOrder(devices=200, seed=1), lambda _what, _share: None)
    assert not story.figures.broken(), story.ends
    assert story.ends == {"r-bad": "halted, rolled_back", "r-good": "finished"}
    naive = simulate(FleetOrder(devices=200, seed=1, naive=True), lambda _what, _share: None)
    assert naive.figures.bad_release_reach > 0.05
    assert naive.figures.without_model == naive.figures.requests_refused == 0
