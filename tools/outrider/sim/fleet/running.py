"""The course of a simulation: a fleet comes up, a bad release is rolled out, halted and taken back, then a good one is rolled out."""

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.processes import Processes, free_port
from outrider.progress import Tell
from outrider.sim.fleet import plans
from outrider.sim.fleet.cloud import HOST, SimCloud
from outrider.sim.fleet.device import Ground, SimDevice
from outrider.sim.fleet.fast_clock import FastClock
from outrider.sim.fleet.fates import fates_of
from outrider.sim.fleet.goods import TASK, Release, make_releases
from outrider.sim.fleet.shelf import Shelf
from outrider.sim.fleet.timeline import FleetFigures, Mark, Sample, Timeline
from outrider.sim.link import Link, Weather
from outrider.sim.power.signing import SigningSite, root_of
from outrider_edge.updates.record import SETTLED
from outrider_link.broker import EmbeddedBroker
from outrider_wire.errors import UndecidedError
from outrider_wire.rollout import RolloutPlan

BAD, GOOD = "r-bad", "r-good"
LINES = {
    "slow": Weather(delay_s=0.2, jitter_s=0.2, bytes_per_s=30_000),
    "cuts": Weather(delay_s=0.05, jitter_s=0.1, cut_after=60_000),
}
THREADS = 48
SWITCH_S = 2e-4
SEE_S = 0.5
LATE_S = 60.0
"""So long the devices are waited for that were away when the good release's rollout finished."""
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_ENDS = frozenset({"finished", "halted", "undecided", "rolled_back", "aborted", "expired"})


@dataclass(frozen=True, kw_only=True)
class FleetOrder:
    """What to simulate."""

    devices: int = 200
    seed: int = 0
    speed: float = 60.0
    """Seconds of the calendar in a second."""
    naive: bool = False
    profile: str = ""
    """Of every device; '': by the shares of `plans.PROFILES`."""
    good: bool = True
    """Whether the good release follows the bad one."""
    patience_s: float = 600.0
    """The longest that one rollout is waited for, in real seconds."""


@dataclass(kw_only=True)
class FleetStory:
    """What came of it."""

    order: FleetOrder
    figures: FleetFigures
    timeline: Timeline
    profiles: dict[str, str]
    devices: list[SimDevice]
    releases: dict[str, Release]
    ends: dict[str, str]
    """Rollout → how it ended."""
    canaries: int
    children: int
    taken: int
    took_s: float
    in_memory: bool


def simulate(order: FleetOrder, tell: Tell) -> FleetStory:
    """Runs it, in a temporary folder and on free ports of the loopback.

    Raises:
        OperatorSetupError: the broker or the cloud cannot be started here.
        UndecidedError: the fleet does not come up.
    """
    with _folder() as folder, _quiet(), _lively():
        return asyncio.run(_Course(order, folder, tell).run())


class _Course:
    def __init__(self, order: FleetOrder, folder: Path, tell: Tell) -> None:
        self._order = order
        self._folder = folder
        self._tell = tell
        self._began_s = time.monotonic()
        self._clock = FastClock(base_s=time.time(), speed=order.speed)
        self._timeline = Timeline()
        self._releases: dict[str, Release] = {}
        self._devices: list[SimDevice] = []
        self._ends: dict[str, str] = {}
        names = [f"cam-{place:03}" for place in range(order.devices)]
        self._profiles = dict.fromkeys(names, order.profile) if order.profile else plans.profiles_of(names)
        self._fates = fates_of(names, seed=order.seed)
        self._shelf = Shelf()

    async def run(self) -> FleetStory:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # cuts leave tasks that fail
        self._tell("making releases and signing plans", 0.0)
        site = await asyncio.to_thread(self._sign)
        async with AsyncExitStack() as stack:
            broker = stack.enter_context(EmbeddedBroker(log_file=self._folder / "broker.log"))
            processes = stack.enter_context(Processes(logs=self._folder / "logs", isolated=True))
            cloud = SimCloud(folder=self._folder / "cloud", port=free_port(broker.port + 1))
            self._tell("starting the cloud", 0.0)
            await asyncio.to_thread(
                cloud.launch, processes, broker=broker.url, repository=self._folder / "site", clock=self._clock
            )
            await cloud.publish(self._releases.values())
            urls = {"fair": broker.url, **await self._lines(broker.port, stack)}
            self._began_s = time.monotonic()
            await self._people(urls, site, stack)
            seeing = asyncio.create_task(self._see())
            stack.callback(seeing.cancel)
            await self._come_up(cloud)
            for device in self._devices:
                if device.fate.lost == "before":
                    device.lose()
            await self._roll(cloud, BAD)
            await self._take_back(cloud)
            if self._order.good:
                await self._roll(cloud, GOOD)
                await self._late()
            await asyncio.sleep(2 * SEE_S)
            return self._told()

    def _sign(self) -> bytes:
        """Releases and both plans, signed; what a device is shipped with."""
        self._releases = make_releases(self._folder / "releases")
        site = SigningSite(self._folder / "site", [TASK.name])
        make = plans.naive if self._order.naive else plans.by_profile
        planned = {
            version: site.release(release.folder, counter)
            for counter, (version, release) in enumerate(self._releases.items(), 1)
        }
        self._plans: dict[str, RolloutPlan] = {}
        for rollout, version in ((BAD, "bad"), (GOOD, "good")):
            salt = f"salt of {rollout}, seed {self._order.seed:04}"
            plan = make(rollout, planned[version], self._profiles, salt=salt, now_ms=self._clock.now_ms())
            self._plans[rollout] = plan
            site.plan(plan)
        site.hand_over()
        return root_of(self._folder / "site")

    async def _lines(self, port: int, stack: AsyncExitStack) -> dict[str, str]:
        urls = {}
        for name, weather in LINES.items():
            link = Link(to=port, seed=self._order.seed)
            await link.start()
            stack.push_async_callback(link.stop)
            await link.change(weather)
            urls[name] = f"mqtt://{HOST}:{link.port}"
        return urls

    async def _people(self, urls: dict[str, str], root: bytes, stack: AsyncExitStack) -> None:
        ground = Ground(
            folder=self._folder / "devices",
            factory=self._releases["first"].folder,
            root=root,
            shelf=self._shelf,
            clock=self._clock,
        )
        self._devices = [
            SimDevice(
                name=name, profile=profile, url=urls[self._fates[name].line], fate=self._fates[name], ground=ground
            )
            for name, profile in self._profiles.items()
        ]
        lives: list[asyncio.Task[None]] = []
        stack.push_async_callback(_ended, lives)
        for device in self._devices:
            lives.append(asyncio.create_task(device.run()))
            await asyncio.sleep(0.02)

    async def _come_up(self, cloud: SimCloud) -> None:
        deadline = time.monotonic() + self._order.patience_s
        while (known := await cloud.known()) < len(self._devices):
            self._tell("the fleet comes up", known / len(self._devices))
            if time.monotonic() > deadline:
                raise UndecidedError(
                    f"only {known} of {len(self._devices)} devices were heard of", reason="not_connected"
                )
            await asyncio.sleep(1.0)
        self._tell("the fleet comes up", 1.0)

    async def _roll(self, cloud: SimCloud, rollout: str) -> None:
        """From the beginning to the end, or for as long as the patience lasts."""
        await cloud.begin(rollout)
        self._ends[rollout] = await self._followed(cloud, rollout, _ENDS - {"rolled_back"})

    async def _take_back(self, cloud: SimCloud) -> None:
        """What the engineer does with a release that was halted: those that kept it go back."""
        if self._ends[BAD] in ("halted", "undecided", "finished"):
            await cloud.act(BAD, "rollback")
            ended = await self._followed(cloud, BAD, frozenset({"rolled_back"}))
            self._ends[BAD] += f", {ended}"
        if self._order.good and not self._ends[BAD].endswith("rolled_back"):
            await cloud.act(BAD, "abort")  # it would stand in the good one's way

    async def _late(self) -> None:
        """Devices whose power was off when the rollout finished take the release when they are back."""
        good, deadline = self._releases["good"].digest, time.monotonic() + LATE_S
        while time.monotonic() < deadline and not all(  # noqa: ASYNC110 - what is waited for is the whole fleet
            each.lost or (each.on and each.runs == good and each.state in SETTLED) for each in self._devices
        ):
            await asyncio.sleep(SEE_S)

    async def _followed(self, cloud: SimCloud, rollout: str, ends: frozenset[str]) -> str:
        deadline, said = time.monotonic() + self._order.patience_s, ""
        while True:
            seen = await cloud.rollout(rollout)
            state, now = str(seen["state"]), f"{seen['state']} {seen['group']}"
            if now != said:
                said = now
                self._timeline.marks.append(Mark(at_s=self._at(), rollout=rollout, what=now))
            self._tell(f"{rollout}", _share(seen, len(self._devices)))
            if state in ends or time.monotonic() > deadline:
                return state
            await asyncio.sleep(SEE_S)

    def _at(self) -> float:
        return time.monotonic() - self._began_s

    async def _see(self) -> None:
        versions = {release.digest: version for version, release in self._releases.items()}
        while True:
            running = Counter(versions.get(each.runs, "") for each in self._devices if each.on)
            self._timeline.samples.append(
                Sample(
                    at_s=self._at(),
                    running=dict(running),
                    off=sum(not each.on for each in self._devices),
                    under_way=sum(each.on and each.state not in ("", *SETTLED) for each in self._devices),
                )
            )
            await asyncio.sleep(SEE_S)

    def _told(self) -> FleetStory:
        bad, good = self._releases["bad"], self._releases["good"]
        n, books = len(self._devices), [each.books for each in self._devices]
        kept = [each for each in self._devices if each.runs == good.digest and each.state in SETTLED]
        whole = good.size * sum(good.digest in each.ran for each in books)
        figures = FleetFigures(
            devices=n,
            without_model=sum(len(each.without_model) for each in books),
            bad_release_reach=round(sum(bad.digest in each.ran for each in books) / n, 4),
            good_release_reach=round(len(kept) / n, 4),
            bytes_ratio=round(sum(each.pulled[good.digest] for each in books) / whole, 4) if whole else 0.0,
            requests_refused=sum(each.refused for each in books),
            ends=dict(self._ends),
        )
        return FleetStory(
            order=self._order,
            figures=figures,
            timeline=self._timeline,
            profiles=self._profiles,
            devices=self._devices,
            releases=self._releases,
            ends=self._ends,
            canaries=plans.reach_at_most(self._plans[BAD], self._profiles),
            children=self._shelf.children,
            taken=self._shelf.taken,
            took_s=self._at(),
            in_memory=self._folder.is_relative_to(MEMORY),
        )


async def _ended(lives: list["asyncio.Task[None]"]) -> None:
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)


def _share(seen: Any, devices: int) -> float:
    return float(sum(n for state, n in seen["members"].items() if state not in ("waiting", "begun")) / devices)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """In memory where there is room: two hundred devices sync thousands of times."""
    room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1 << 30
    with tempfile.TemporaryDirectory(prefix="outrider-fleet-", dir=MEMORY if room else None) as name:
        yield Path(name).resolve()


@contextlib.contextmanager
def _lively() -> Iterator[None]:
    """Threads that verify signatures hold the interpreter for 5 ms at a time: the loop of two hundred links would wait for each."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the devices log of faults that are meant is not news."""
    rooms = [logging.getLogger(room) for room in ("outrider_edge", "outrider_link", "asyncio")]
    before = [(room.level, room.propagate) for room in rooms]
    for room in rooms:
        room.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for room, (level, propagate) in zip(rooms, before, strict=True):
            room.setLevel(level)
            room.propagate = propagate
