"""Faults of the line, between the devices and the broker or between the cloud and the broker: chance says which."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from outrider.sim.fault import Cause, Fault
from outrider.sim.link import FAIR, Weather
from outrider.sim.world import World

_INSTANT_S = 0.2


def weather(*kinds: Weather) -> Cause:
    """One of these, until the weather is fair again."""

    @contextmanager
    def cause(world: World, chance: random.Random) -> Iterator[None]:
        link = chance.choice(world.links)
        time.sleep(chance.uniform(0, _INSTANT_S))
        world.backstage.call(link.change(chance.choice(kinds)))
        try:
            yield
        finally:
            world.backstage.call(link.change(FAIR))

    return cause


@contextmanager
def reset(world: World, chance: random.Random) -> Iterator[None]:
    """RST to both ends of every connection, three times."""
    link = chance.choice(world.links)
    for _ in range(3):
        time.sleep(chance.uniform(0, _INSTANT_S))
        world.backstage.call(link.reset())
    yield


@contextmanager
def half_open(world: World, chance: random.Random) -> Iterator[None]:
    """Nothing passes on the connections there are, and nobody is told: both ends find out by their keep-alive."""
    time.sleep(chance.uniform(0, _INSTANT_S))
    world.backstage.call(chance.choice(world.links).half_open())
    yield


FAULTS: Sequence[Fault] = (
    Fault(
        name="link-reset",
        what="connections to the broker end with RST",
        undone="they connect again",
        cause=reset,
        rounds=3,
        felt_by="device cloud",
        felt_as="session.down",
    ),
    Fault(
        name="link-loss",
        what="connections break after some 20 kB, again and again",
        undone="fair weather",
        cause=weather(Weather(cut_after=20_000)),
        hold_s=2.0,
        felt_by="device cloud",
        felt_as="session.down",
    ),
    Fault(
        name="link-delay",
        what="every byte is 150 to 300 ms late",
        undone="fair weather",
        cause=weather(Weather(delay_s=0.15, jitter_s=0.15)),
        hold_s=2.0,
    ),
    Fault(
        name="link-stall",
        what="the line stops in the middle of a packet, and goes on after a while",
        undone="fair weather",
        cause=weather(Weather(stall_after=700), Weather(stall_after=30_000)),
        hold_s=2.0,
    ),
    Fault(
        name="link-slow",
        what="20 kB a second",
        undone="fair weather",
        cause=weather(Weather(bytes_per_s=20_000)),
        hold_s=6.0,
        settle_s=90.0,
    ),
    Fault(
        name="link-one-way",
        what="one direction is dead, the other is not",
        undone="fair weather",
        cause=weather(Weather(hole=frozenset({"up"})), Weather(hole=frozenset({"down"}))),
        hold_s=3.0,
    ),
    Fault(
        name="link-black-hole",
        what="nothing passes, and nobody is told",
        undone="fair weather",
        cause=weather(Weather(hole=frozenset({"up", "down"}))),
        hold_s=3.0,
    ),
    Fault(
        name="link-half-open",
        what="the connections there are die without a word; new ones work",
        undone="the keep-alive finds out (up to 40 s)",
        cause=half_open,
        rounds=1,
        settle_s=150.0,
        felt_by="device cloud",
        felt_as="session.down",
    ),
)
