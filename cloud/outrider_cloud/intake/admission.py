"""Who is let in when there is too much: rates, room, and fair shares between devices. Pure: time and chance are arguments.

Every question that is admitted and unanswered takes room, in its task and in the whole process. As the room fills, those who
already hold their share of it are refused first; nothing is ever dropped that was let in.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from outrider_cloud.buckets import Buckets

Why = Literal["device_rate", "task_rate", "queue_full", "bytes_full", "over_share", "draining", "store"]
"""Why an offer is put off: its device or task asks too often, there is no room, its device holds more than its share, the
process is about to end, the store cannot be written."""


class Shed(NamedTuple):
    """An offer that is put off."""

    why: Why
    wait_s: float = 0.0
    """When there is a place in line for it."""


PER_CENT_FULL_FROM = 50
"""From this filling on, a device may hold no more than its share."""
_LAST_PLACES = 16
"""One place in so many is kept for devices that hold none."""
_RATE_OVER_S = 30.0
_LONGEST_S = 300.0
_Rate = Annotated[float, Meta(gt=0, le=1e6)]


class Limits(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the cloud takes at most. A laboratory never meets the defaults."""

    device_per_s: _Rate = 200.0
    """Offers of one device, in the long run."""
    device_burst: _Rate = 20_000.0
    """Offers of one device at once: an outbox that drains after an outage."""
    task_per_s: _Rate = 2_000.0
    """Offers of one task, in the long run."""
    task_burst: _Rate = 100_000.0
    inputs_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 8192
    """Escalations admitted and unanswered over all tasks; ``batch.queue_max`` bounds those of one."""
    bytes_max: Annotated[int, Meta(ge=1)] = 1024 * 1024 * 1024
    """The same bound on the bytes of their parts."""
    devices_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    """Devices whose presence, reports and telemetry are kept; another's are not taken."""
    dead_letters_per_s: _Rate = 10.0
    """Messages that could not be taken and are kept, in the long run; the others are only counted."""
    dead_letters_burst: _Rate = 200.0


class Key(NamedTuple):
    """What identifies an open question."""

    task: str
    device: str
    id: str


@dataclass
class _Held:
    """What one device holds of a room."""

    count: int = 0
    bytes: int = 0


class Room:
    """So many questions, so many bytes, shared by devices."""

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self.count = 0
        self.bytes = 0
        self._most = most
        self._most_bytes = most_bytes
        self._held: dict[str, _Held] = {}

    def refuses(self, device: str, size: int) -> Why | None:
        """Why one more question of ``size`` bytes by that device has no place; None: it has one."""
        if self.count >= self._most:
            return "queue_full"
        if self.count and self.bytes + size > self._most_bytes:
            return "bytes_full"
        held = self._held.get(device)
        if held is None:
            return None
        if self.count >= self._most - self._most // _LAST_PLACES:
            return "queue_full"
        crowded = 100 * self.count >= PER_CENT_FULL_FROM * self._most
        heavy = 100 * self.bytes >= PER_CENT_FULL_FROM * self._most_bytes
        too_many = crowded and held.count >= self._most / len(self._held)
        too_much = heavy and held.bytes + size > self._most_bytes / len(self._held)
        return "over_share" if too_many or too_much else None

    @property
    def left(self) -> int:
        """How many more questions have a place."""
        return max(0, self._most - self.count) if self.bytes < self._most_bytes else 0

    def add(self, device: str, size: int) -> None:
        """One more."""
        held = self._held.setdefault(device, _Held())
        held.count += 1
        held.bytes += size
        self.count += 1
        self.bytes += size

    def remove(self, device: str, size: int) -> None:
        """One less."""
        held = self._held[device]
        held.count -= 1
        held.bytes -= size
        self.count -= 1
        self.bytes -= size
        if not held.count:
            del self._held[device]


class Admission:
    """The books of everything that is admitted and unanswered."""

    def __init__(
        self, *, limits: Limits, tasks: frozenset[str], queue_max: int, queue_max_bytes: int, retry_after_s: float
    ) -> None:
        self._whole = Room(most=limits.inputs_max, most_bytes=limits.bytes_max)
        self._rooms = {task: Room(most=queue_max, most_bytes=queue_max_bytes) for task in tasks}
        self._devices = Buckets(per_s=limits.device_per_s, burst=limits.device_burst)
        self._tasks = Buckets(per_s=limits.task_per_s, burst=limits.task_burst)
        self._retry_after_s = retry_after_s
        self._open: dict[str, OrderedDict[Key, tuple[float, int]]] = {task: OrderedDict() for task in tasks}
        self._drained = _Drained()

    def too_often(self, device: str, task: str, now: float) -> Shed | None:
        """Whether an offer exceeds a rate; to be asked once for each, before anything is spent on it."""
        if (wait_s := self._devices.take(device, now)) > 0:
            return Shed("device_rate", wait_s)
        if task in self._rooms and (wait_s := self._tasks.take(task, now)) > 0:
            return Shed("task_rate", wait_s)
        return None

    def no_room(self, device: str, task: str, size: int) -> Shed | None:
        """Whether a new question has no place."""
        why = self._rooms[task].refuses(device, size) or self._whole.refuses(device, size)
        return Shed(why) if why else None

    def enter(self, key: Key, size: int, now: float) -> None:
        """It is admitted."""
        if key not in self._open[key.task]:
            self._open[key.task][key] = (now, size)
            self._rooms[key.task].add(key.device, size)
            self._whole.add(key.device, size)

    def leave(self, key: Key, now: float) -> None:
        """It is settled, or came to nothing here."""
        found = self._open[key.task].pop(key, None)
        if found is not None:
            self._rooms[key.task].remove(key.device, found[1])
            self._whole.remove(key.device, found[1])
            self._drained.one(now)

    def left(self, task: str) -> int:
        """How many more questions of a task have a place."""
        return min(self._rooms[task].left, self._whole.left)

    def depth(self, task: str) -> int:
        """Open questions of a task."""
        return self._rooms[task].count

    def bytes(self, task: str) -> int:
        """Bytes of their parts."""
        return self._rooms[task].bytes

    def oldest_s(self, task: str, now: float) -> float:
        """How long the first of them that was admitted has waited; 0 when there is none."""
        first = next(iter(self._open[task].values()), None)
        return max(0.0, now - first[0]) if first else 0.0

    def retry_after_s(self, shed: Shed, now: float, chance: float) -> float:
        """When to come again: at least the configured pause, longer the slower the queue drains and the older it is.

        Args:
            shed: why it is put off.
            now: the time.
            chance: uniform in [0, 1): spreads those who were refused together over half a pause more or less.
        """
        wait_s = max(self._retry_after_s, shed.wait_s)
        if shed.why in ("queue_full", "bytes_full", "over_share"):
            age_s = max((self.oldest_s(task, now) for task in self._rooms), default=0.0)
            wait_s = max(wait_s, age_s / 2, self._drained.seconds_for(self._whole.count, now))
        return min(wait_s, _LONGEST_S) * (0.75 + chance / 2)


class _Drained:
    """How fast questions leave: an exponentially forgetting mean, corrected for its beginning."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._at = 0.0
        self._sum = 0.0

    def one(self, now: float) -> None:
        """One has left."""
        if self._began is None:
            self._began = self._at = now - 1.0
        self._sum = self._sum * math.exp((self._at - now) / _RATE_OVER_S) + 1.0
        self._at = now

    def seconds_for(self, count: int, now: float) -> float:
        """How long it takes until so many more have left; 0 where nothing is known."""
        if self._began is None:
            return 0.0
        seen_s = _RATE_OVER_S * -math.expm1((self._began - now) / _RATE_OVER_S)
        left = self._sum * math.exp((self._at - now) / _RATE_OVER_S)
        return min(_LONGEST_S, count * seen_s / left) if left > 0 else _LONGEST_S
