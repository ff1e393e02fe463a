"""Faults of what a process lives on: its disk, its descriptors, its memory; and of the large model that the cloud asks."""

import random
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from outrider.sim.fault import Cause, Fault
from outrider.sim.large_server import Manner
from outrider.sim.world import World

_SPARE_BYTES = 256 * 1024


def disk(mood: str, whose: str) -> Cause:
    """Every change of that disk fails. ``whose``: ``device`` or ``cloud``."""

    @contextmanager
    def cause(world: World, chance: random.Random) -> Iterator[None]:
        name = world.device if whose == "device" else whose
        time.sleep(chance.uniform(0, 0.2))
        outage = world.excuse_cloud() if whose == "cloud" else None
        world.disks[name].mood(mood)
        try:
            yield
        finally:
            world.disks[name].mood("ok")
            if outage is not None:
                outage.ended_s = time.monotonic() + 1.0

    return cause


def too_many_files(whose: str) -> Cause:
    """The limit of open files of the running process falls to what it has open."""

    @contextmanager
    def cause(world: World, chance: random.Random) -> Iterator[None]:
        name = world.device if whose == "device" else whose
        pid = world.processes.pid(name)
        now = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        with _limited(world, name, resource.RLIMIT_NOFILE, now):
            yield

    return cause


@contextmanager
def out_of_memory(world: World, chance: random.Random) -> Iterator[None]:
    """The cloud's address space may not grow."""
    pid = world.processes.pid("cloud")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    with _limited(world, "cloud", resource.RLIMIT_AS, pages * resource.getpagesize() + _SPARE_BYTES):
        yield


@contextmanager
def _limited(world: World, name: str, kind: int, limit: int) -> Iterator[None]:
    pid = world.processes.pid(name)
    before = resource.prlimit(pid, kind)
    outage = world.excuse_cloud() if name == "cloud" else None
    resource.prlimit(pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have died of it: then it is started again with all the others
            if world.processes.runs(name):
                resource.prlimit(pid, kind, before)
        if outage is not None:
            outage.ended_s = time.monotonic() + 1.0


def large_model(manner: Manner) -> Cause:
    """Every call of the large model goes like that."""

    @contextmanager
    def cause(world: World, chance: random.Random) -> Iterator[None]:
        world.large.manner = manner
        try:
            yield
        finally:
            world.large.manner = "well"

    return cause


_MANNERS: Sequence[tuple[Manner, str]] = (
    ("slow", "does not answer in time"),
    ("garbage", "answers with bytes that are no completion"),
    ("limited", "answers 429: too many requests"),
    ("down", "answers 503"),
)

_DISKS = (
    ("full", "full", "is full", "disk is full|No space left"),
    ("readonly", "read-only", "is read-only", "readonly database|disk I/O error|Read-only file system"),
)

FAULTS: Sequence[Fault] = (
    *(
        Fault(
            name=f"disk-{word}-{whose}",
            what=f"the disk of the {whose} {how}",
            undone="the disk works again",
            cause=disk(mood, whose),
            hold_s=3.0,
            felt_by=whose,
            felt_as=sign,
            needs=frozenset({"disks"}),
            settle_s=120.0,
        )
        for mood, word, how, sign in _DISKS
        for whose in ("device", "cloud")
    ),
    *(
        Fault(
            name=f"open-files-{whose}",
            what=f"the {whose} has as many files open as it may",
            undone="the limit is lifted",
            cause=too_many_files(whose),
            hold_s=3.0,
            large_every=2,
            felt_by=whose,
            felt_as="Too many open files|reason=disk",
        )
        for whose in ("device", "cloud")
    ),
    Fault(
        name="memory",
        what="the cloud gets no more memory",
        undone="the limit is lifted; the cloud is started again if it died",
        cause=out_of_memory,
        rounds=1,
        hold_s=3.0,
        inputs=16,
        large_bytes=900_000,
        large_every=2,
        felt_by="cloud",
        felt_as="MemoryError|[Cc]annot allocate|can't start new thread",
    ),
    *(
        Fault(
            name=f"large-{manner}",
            what=f"the large model {how}",
            undone="it answers",
            cause=large_model(manner),
            rounds=1,
            hold_s=5.0,
            felt_by="cloud",
            felt_as="large_model.un(answered|readable)",
            settle_s=90.0,
        )
        for manner, how in _MANNERS
    ),
)
