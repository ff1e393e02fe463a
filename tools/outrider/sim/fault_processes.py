"""Faults of processes and of time: killed, restarted, and an hour that the cloud is away."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from outrider.sim.fault import Cause, Fault
from outrider.sim.world import World

HOUR_S = 3600.0
_INSTANT_S = 0.3
_DEAD_S = 0.2


def killed(*victims: str) -> Cause:
    """SIGKILL at a random instant; started again a moment later. ``device``: the first one.

    Half the time nobody waits until it is ready again: what is killed next may be it, in the middle of its start.
    """

    @contextmanager
    def cause(world: World, chance: random.Random) -> Iterator[None]:
        victim = chance.choice(victims)
        name = world.device if victim == "device" else victim
        time.sleep(chance.uniform(0, _INSTANT_S))
        world.kill(name)
        try:
            yield
            time.sleep(chance.uniform(0, _DEAD_S))
        finally:
            world.launch(name)
        if chance.random() < 0.5:
            world.wait_ready(name)

    return cause


@contextmanager
def all_killed(world: World, chance: random.Random) -> Iterator[None]:
    """Everything at once, as when a site loses its power; what starts first comes up first."""
    time.sleep(chance.uniform(0, _INSTANT_S))
    for name in reversed(world.parts()):
        world.kill(name)
    try:
        yield
    finally:
        for name in world.parts():
            world.launch(name)
        world.wait_whole()


def broker_restarted(*, persistent: bool) -> Cause:
    """SIGTERM; it comes back with, or without, what it held."""

    @contextmanager
    def cause(world: World, chance: random.Random) -> Iterator[None]:
        if world.persistent != persistent:
            world.stop("broker")
            world.persistent = persistent
            world.start("broker")
        time.sleep(chance.uniform(0, _INSTANT_S))
        world.stop("broker")
        try:
            yield
        finally:
            world.start("broker")

    return cause


@contextmanager
def cloud_away_for_an_hour(world: World, chance: random.Random) -> Iterator[None]:
    """The cloud is killed; what is asked meanwhile waits while the clocks move on by an hour; then it comes back."""
    time.sleep(chance.uniform(0, _INSTANT_S))
    world.kill("cloud")
    try:
        yield
        time.sleep(0.5)
        world.hours += 1
        world.move_clocks(world.hours * HOUR_S)
        time.sleep(2.0)
    finally:
        world.start("cloud")


FAULTS: Sequence[Fault] = (
    Fault(
        name="kill",
        what="kill -9 of the device, the cloud or the broker, at a random instant",
        undone="started again",
        cause=killed("device", "cloud", "broker"),
        rounds=20,
        inputs=6,
    ),
    Fault(
        name="kill-all",
        what="kill -9 of everything at once",
        undone="started again, broker first",
        cause=all_killed,
    ),
    Fault(
        name="broker-forgets",
        what="the broker is restarted, and keeps nothing",
        undone="it is back",
        cause=broker_restarted(persistent=False),
        hold_s=0.5,
    ),
    Fault(
        name="broker-remembers",
        what="mosquitto is restarted, and keeps sessions and messages",
        undone="it is back",
        cause=broker_restarted(persistent=True),
        hold_s=0.5,
        needs=frozenset({"mosquitto"}),
    ),
    Fault(
        name="cloud-away",
        what="the cloud is away for an hour (the clocks are moved)",
        undone="started again",
        cause=cloud_away_for_an_hour,
        rounds=1,
        inputs=16,
        hold_s=0.5,
        needs=frozenset({"moved_clock", "patient"}),
        settle_s=90.0,
    ),
)
