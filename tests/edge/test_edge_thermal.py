"""Thermal back-off: the rule on a simulated board, the zones on a fake sysfs tree, the pace in the real agent."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from edge_agents import running_agent, write_config
from hypothesis import given
from hypothesis import strategies as st

from factory import parts_of, sure
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.thermal.keeper import ThermalKeeper, families
from outrider_edge.thermal.pacer import MOST_WAITING, Pacer
from outrider_edge.thermal.rules import Heat, Zone, after, headroom
from outrider_edge.thermal.zones import read_zones
from outrider_wire.errors import UndecidedError
from outrider_wire.profile import ThermalTerms

TERMS = ThermalTerms(enabled=True, throttle_c=90.0, margin_c=10.0, hysteresis_c=4.0, least_duty=0.1)


def zone(folder: Path, number: int, kind: str, temp: str, *trips: tuple[str, str]) -> Path:
    """A zone of a fake sysfs; returns the file of its temperature."""
    home = folder / f"thermal_zone{number}"
    home.mkdir(parents=True, exist_ok=True)
    (home / "type").write_text(kind + "\n")
    (home / "temp").write_text(temp)
    for at, (name, value) in enumerate(trips):
        (home / f"trip_point_{at}_type").write_text(name + "\n")
        (home / f"trip_point_{at}_temp").write_text(value + "\n")
    return home / "temp"


# --- the rule


@pytest.mark.parametrize(
    ("duty", "before", "now", "then"),
    [
        (1.0, None, 50.0, 1.0),
        (1.0, 12.0, 9.0, 0.5),
        (0.5, 9.0, 9.0, 0.25),
        (0.5, 7.0, 8.0, 0.5),  # it cools already
        (0.5, 8.0, 12.0, 0.5),  # in the band
        (0.5, 12.0, 14.0, 0.625),
        (0.9, 20.0, 20.0, 1.0),
        (1.0, 20.0, 0.0, 0.1),
        (1.0, 20.0, -8.0, 0.1),
        (0.5, 8.0, None, 0.5),  # the sensors are silent
    ],
)
def test_one_step_of_the_controller(duty: float, before: float | None, now: float | None, then: float) -> None:
    assert after(Heat(duty, before), now, TERMS).duty == pytest.approx(then)


@given(st.lists(st.one_of(st.none(), st.floats(-100, 200)), max_size=60))
def test_the_duty_never_leaves_its_bounds_and_comes_back_when_it_is_cool(readings: list[float | None]) -> None:
    heat = Heat()
    for left in readings:
        heat = after(heat, left, TERMS)
        assert TERMS.least_duty <= heat.duty <= 1.0
    for _ in range(12):
        heat = after(heat, 60.0, TERMS)
    assert heat.duty == 1.0


def simulate(*, controlled: bool, ambient_c: float) -> tuple[float, list[float]]:
    """A board of one thermal mass, busy without end, for an hour: the highest temperature of its second half, and the duties."""
    temp, heat, hottest, duties = ambient_c, Heat(), 0.0, []
    full_c, settles_s, step_s = 60.0, 40.0, 2.0  # at full load it ends 60 degrees above the ambient air
    for step in range(1800):
        temp += (ambient_c + full_c * heat.duty - temp) * step_s / settles_s
        if controlled:
            heat = after(heat, 90.0 - temp, TERMS)
        duties.append(heat.duty)
        hottest = max(hottest, temp) if step > 900 else hottest
    return hottest, duties


def test_a_board_in_hot_air_stays_below_its_limit_only_because_of_the_controller() -> None:
    assert simulate(controlled=False, ambient_c=45.0)[0] > 90.0
    hottest, duties = simulate(controlled=True, ambient_c=45.0)
    assert hottest < 90.0
    assert sum(duties[900:]) / 900 > 0.3, "it still works most of what the board can carry (0.58)"


def test_a_board_that_stays_cool_is_never_slowed() -> None:
    assert set(simulate(controlled=True, ambient_c=10.0)[1]) == {1.0}


def test_the_zone_with_the_least_headroom_counts_and_one_without_a_limit_does_not() -> None:
    zones = [Zone("cpu", 70.0, 95.0), Zone("gpu", 80.0, None), Zone("skin", 60.0, 65.0)]
    assert headroom(zones, TERMS) == 5.0
    assert headroom(zones[:2], TERMS) == 10.0
    assert headroom([Zone("gpu", 80.0, None)], ThermalTerms()) is None
    assert headroom([], TERMS) is None


# --- the zones


def test_zones_are_read_with_their_passive_trip_points(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", "51500", ("critical", "110000"), ("passive", "99000"), ("passive", "95000"))
    zone(tmp_path, 1, "gpu-thermal", "48000", ("active", "60000"), ("passive", "0"))
    zone(tmp_path, 2, "gpu-thermal", "49000")
    assert read_zones(tmp_path) == [
        Zone("cpu-thermal", 51.5, 95.0),
        Zone("gpu-thermal", 48.0, None),
        Zone("gpu-thermal-2", 49.0, None),
    ]
    assert [each.name for each in read_zones(tmp_path, ["cpu*", "soc*"])] == ["cpu-thermal"]


@pytest.mark.parametrize("temp", ["", "hot", "-274000", "99999999", "9" * 5000, "\x00\xff", "nan"])
def test_a_zone_that_tells_nonsense_is_left_out(tmp_path: Path, temp: str) -> None:
    zone(tmp_path, 0, "cpu-thermal", temp)
    zone(tmp_path, 1, "soc", "40000")
    assert [each.name for each in read_zones(tmp_path)] == ["soc"]


def test_a_zone_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    zone(tmp_path, 0, "gpu", "40000").unlink()
    (tmp_path / "thermal_zone0/temp").mkdir()
    (tmp_path / "thermal_zone7").mkdir()
    assert read_zones(tmp_path) == []
    assert read_zones(tmp_path / "absent") == []


# --- the pace


class Work:
    """A piece of work of a given length, with the most that ever ran at once."""

    def __init__(self, s: float) -> None:
        self.s, self.running, self.most, self.spans = s, 0, 0, list[tuple[float, float]]()

    async def __call__(self) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        began = time.monotonic()
        await asyncio.sleep(self.s)
        self.spans.append((began, time.monotonic()))
        self.running -= 1
        return len(self.spans)


async def test_at_full_duty_everything_runs_at_once() -> None:
    pacer, work = Pacer(), Work(0.02)
    await asyncio.gather(*(pacer.run(work, patience_s=1) for _ in range(5)))
    assert (work.most, pacer.waited) == (5, 0)


async def test_slowed_inputs_take_turns_and_the_chip_rests_after_each() -> None:
    pacer, work = Pacer(), Work(0.02)
    pacer.duty = 0.25
    assert sorted(await asyncio.gather(*(pacer.run(work, patience_s=30) for _ in range(4)))) == [1, 2, 3, 4]
    assert work.most == 1
    for (began, ended), (then, _) in zip(work.spans, work.spans[1:], strict=False):
        assert then - ended >= 2.9 * (ended - began), "three times as long as it ran"
    assert pacer.waited == 3


async def test_who_gets_no_turn_in_time_is_told_and_the_turn_is_the_next_ones() -> None:
    pacer, work = Pacer(), Work(0.3)
    pacer.duty = 0.2
    await pacer.run(work, patience_s=1)  # the chip now rests for 1.2 s
    with pytest.raises(UndecidedError, match="too hot"):
        await pacer.run(work, patience_s=0)  # waits its second all the same
    assert (pacer.turned_away, len(work.spans)) == (1, 1)
    await pacer.run(work, patience_s=5)
    assert len(work.spans) == 2


async def test_the_queue_is_bounded_and_an_error_or_a_cancelled_wait_gives_the_turn_back() -> None:
    pacer, gate = Pacer(), asyncio.Event()
    pacer.duty = 0.5
    first = asyncio.create_task(pacer.run(gate.wait, patience_s=30))
    await asyncio.sleep(0)
    queue = [asyncio.create_task(pacer.run(gate.wait, patience_s=30)) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(UndecidedError):
        await pacer.run(gate.wait, patience_s=30)
    for each in queue:
        each.cancel()
    await asyncio.gather(*queue, return_exceptions=True)
    gate.set()
    assert await first

    async def broken() -> None:
        raise ValueError("defect")

    with pytest.raises(ValueError, match="defect"):
        await pacer.run(broken, patience_s=30)
    assert await pacer.run(gate.wait, patience_s=30)


# --- the whole


async def test_the_keeper_slows_on_a_hot_tree_and_speeds_up_when_it_cools(tmp_path: Path) -> None:
    temp = zone(tmp_path, 0, "cpu-thermal", "60000", ("passive", "90000"))
    pacer = Pacer()
    keeper = ThermalKeeper(terms=ThermalTerms(enabled=True, path=str(tmp_path)), pacer=pacer)
    duties = []
    for degrees in (60_000, 84_000, 85_000, 91_000, 60_000):
        temp.write_text(str(degrees))
        await keeper.look()
        duties.append(pacer.duty)
    assert duties == [1.0, 0.5, 0.25, 0.1, 0.125]
    view = keeper.view()
    assert (view.zones, view.headroom_c, view.duty) == ({"cpu-thermal": 60.0}, 30.0, 0.125)
    shown = {sample.name: sample.value for family in families(view) for sample in family.samples}
    assert shown["outrider_temperature_celsius"] == 60.0
    assert shown["outrider_thermal_duty"] == 0.125


async def test_slowed_answers_are_the_same_and_the_account_adds_up(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        cool = [await bench.agent.submit("colours", parts_of(sure(label))) for label in (0, 1, 2)]
        bench.agent._pacer.duty = 0.2
        hot = await asyncio.gather(*(bench.agent.submit("colours", parts_of(sure(label))) for label in (0, 1, 2) * 3))
        assert [report.label for report in hot] == [report.label for report in cool] * 3
        assert bench.agent._pacer.waited > 0
        assert bench.agent.account().edge == 12


async def test_an_input_without_a_turn_is_refused_and_counted(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as bench:
        pacer = bench.agent._pacer
        pacer.duty, pacer._free_at = 0.1, time.monotonic() + 60
        with pytest.raises(UndecidedError):
            await bench.agent.submit("colours", parts_of(sure(0)), answer_within_ms=0)
        account = bench.agent.account()
        assert (account.received, account.refused, account.adds_up) == (1, 1, True)


async def test_the_agent_tells_its_temperature_in_status_and_metrics(tmp_path: Path) -> None:
    zone(tmp_path / "sys", 0, "cpu-thermal", "88000", ("passive", "90000"))
    terms = f'[thermal]\nenabled = true\npath = "{tmp_path / "sys"}"\nevery_s = 0.05\nleast_duty = 0.5\n'
    async with serving(load_edge_config(write_config(tmp_path, extra=terms))) as served:
        import urllib.request

        def get(path: str) -> bytes:
            with urllib.request.urlopen(served.addresses[0] + path, timeout=10) as reply:  # noqa: S310 - our own loopback address
                body: bytes = reply.read()
            return body

        async with asyncio.timeout(10):  # the keeper looks on its own time
            while (status := json.loads(await asyncio.to_thread(get, "/v1/status")))["thermal"]["duty"] != 0.5:  # noqa: ASYNC110 - read over HTTP
                await asyncio.sleep(0.02)
        assert status["thermal"]["headroom_c"] == 2.0
        assert b'outrider_temperature_celsius{zone="cpu-thermal"} 88.0' in await asyncio.to_thread(get, "/metrics")
