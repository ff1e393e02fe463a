"""A fleet for tests of rollouts without a wire: devices that obey by the minute, and a controller that looks. No assertion."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from outrider_cloud.rollout.controller import Step, act, step
from outrider_cloud.rollout.records import Count, Look, Member, Progress, Seen, Slot, World
from outrider_cloud.rollout.states import ACTS, Act
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease, RolloutPlan, Thresholds

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
MONDAY = 4 * DAY
"""Monday 1970-01-05, 00:00 UTC."""
OLD, NEW, OLDER = "0" * 63 + "1", "0" * 63 + "2", "0" * 63 + "3"


def planned(release: str = NEW, *, task: str = "colours", counter: int = 2) -> PlannedRelease:
    """A release as a plan names it."""
    return PlannedRelease(task=task, release=release, size=100, counter=counter)


def make_plan(*shares: float, minimum: int = 1, limits: Mapping[str, Any] | None = None, **fields: Any) -> RolloutPlan:
    """A plan of stages by share, without soak, good for 30 days."""
    usual: dict[str, Any] = {
        "rollout": "r-1",
        "releases": [planned()],
        "groups": [Group(name=f"stage-{k}", share=share, minimum=minimum) for k, share in enumerate(shares or (1.0,))],
        "salt": "a salt of this rollout",
        "start_ms": MONDAY,
        "expires_ms": MONDAY + 30 * DAY,
        "thresholds": Thresholds(**(limits or {})),
    }
    return RolloutPlan(**(usual | fields))


def make_seen(name: str, **fields: Any) -> Seen:
    """A device that runs the old release."""
    usual: dict[str, Any] = {
        "device": name,
        "agent": "0.1.0",
        "seen_ms": MONDAY,
        "slots": {"colours": Slot(running=OLD)},
        "counts": {"colours": Count(inputs=1000, sent=200)},
    }
    return Seen(**(usual | fields))


@dataclass
class Manner:
    """How one device takes an update."""

    end: str = "committed"
    """``committed``, ``failed``, ``rolled_back``, ``dark`` (never heard of again), ``never`` (is not there)."""
    minutes: int = 5
    sent: float = 0.2
    """Share of inputs that it escalates with the release."""
    alarm: bool = False
    signs: bool = True
    """Whether its figures are signed: else none of them is known."""


@dataclass
class FleetWorld:
    """The devices, and the rollout that moves them."""

    plan: RolloutPlan
    manners: dict[str, Manner]
    now_ms: int = MONDAY
    progress: Progress = field(default_factory=Progress)
    members: dict[str, Member] = field(default_factory=dict)
    fleet: dict[str, Seen] = field(default_factory=dict)
    orders: list[DeviceOrder] = field(default_factory=list)
    stops: int = 0
    world: dict[str, Any] = field(default_factory=dict)
    last: Step | None = None

    def __post_init__(self) -> None:
        self._under_way: dict[str, tuple[int, DeviceOrder]] = {}
        for name in self.manners:
            self.fleet.setdefault(name, make_seen(name))

    def look(self) -> Step:
        """One step of the controller, from what is kept alone."""
        world = World(now_ms=self.now_ms, **self.world)
        fleet = {name: seen if self.manners[name].signs else _unsigned(seen) for name, seen in self.fleet.items()}
        look = Look(plan=self.plan, progress=self.progress, members=self.members, fleet=fleet, world=world)
        self.last = done = step(look)
        self.stops += done.stop and self.progress.state != "halted"
        self.progress, self.members = done.progress, {**self.members, **done.members}
        self.orders += done.orders
        for order in done.orders:
            self._under_way[order.device] = (self.now_ms, order)
        for name in done.withdraw:
            self._under_way.pop(name, None)
        return done

    def act(self, wanted: Act) -> None:
        """A person's word."""
        state = ACTS[wanted][self.progress.state]
        self.progress = act(self.progress, wanted, state, now_ms=self.now_ms)

    def pass_time(self, minutes: int = 1) -> None:
        """What the devices do meanwhile."""
        self.now_ms += minutes * MINUTE
        for name, seen in self.fleet.items():
            manner = self.manners[name]
            gone = manner.end == "never" or (manner.end == "dark" and seen.slots["colours"].state == "fetching")
            if not gone:
                self.fleet[name] = self._works(replace(seen, seen_ms=self.now_ms), manner, minutes)

    def run(self, minutes: int, until: Callable[[], bool] | None = None, every: int = 1) -> None:
        """Looks, and lets time pass, by turns."""
        for _ in range(0, minutes, every):
            self.look()
            if until and until():
                return
            self.pass_time(every)

    def count(self, state: str) -> int:
        """Members in that state."""
        return sum(each.state == state for each in self.members.values())

    def running_new(self) -> int:
        """Devices that run the release now."""
        return sum(seen.slots["colours"].running == NEW for seen in self.fleet.values())

    def _works(self, seen: Seen, manner: Manner, minutes: int) -> Seen:
        slot, count = seen.slots["colours"], seen.counts["colours"]
        share = manner.sent if slot.running == NEW else 0.2
        inputs = 10 * minutes
        counts = {"colours": Count(inputs=count.inputs + inputs, sent=count.sent + round(share * inputs))}
        seen = replace(seen, counts=counts)
        if seen.device not in self._under_way:
            return seen
        began_ms, order = self._under_way[seen.device]
        return replace(seen, **self._obeys(seen, slot, manner, order, (self.now_ms - began_ms) // MINUTE))

    def _obeys(self, seen: Seen, slot: Slot, manner: Manner, order: DeviceOrder, minutes: int) -> dict[str, Any]:
        release = order.releases[0].release
        if order.kind == "rollback":
            self._under_way.pop(seen.device)
            return {"slots": {"colours": Slot(running=release)}}
        if minutes < manner.minutes or slot.state == "idle":
            probing = manner.end in ("committed", "rolled_back") and minutes > manner.minutes // 2
            state = "probation" if probing else "fetching"
            running = release if state == "probation" else slot.running
            return {"slots": {"colours": Slot(running=running, state=state, offered=release)}}
        if manner.end == "dark":
            return {}
        self._under_way.pop(seen.device)
        if manner.end == "committed":
            alarms = {"colours": "certificate-2"} if manner.alarm else {}
            return {"slots": {"colours": Slot(running=release)}, "alarms": alarms}
        refused = Slot(running=OLD, state="refused", offered=release, refused=[release], reason="it did not work")
        return {"slots": {"colours": refused}}


def _unsigned(seen: Seen) -> Seen:
    return replace(seen, counts={}, alarms={})


def make_world(plan: RolloutPlan, devices: int, manner: Callable[[int], Manner] | None = None) -> FleetWorld:
    """A world of ``devices`` devices."""
    return FleetWorld(plan, {f"cam-{k}": manner(k) if manner else Manner() for k in range(devices)})


def chance(rate: float, seed: int, end: str = "failed") -> Callable[[int], Manner]:
    """Devices that end badly by chance."""
    dice = random.Random(seed)
    return lambda _: Manner(end=end if dice.random() < rate else "committed", minutes=dice.randint(2, 9))
