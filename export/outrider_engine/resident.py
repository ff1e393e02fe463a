"""Several models under one bound of memory: the longest unused is let go and loaded again when it is asked. Knows no tasks and no bundles.

What a model takes is reckoned, not measured: a process cannot tell whose memory is whose. ONNX Runtime keeps the weights and a packed
copy (measured on x86-64, version 1.32, with Conv and MatMul models of 18 and 32 MB: 2.0 times the file, all of it given back once the C
library is told to).
"""

import ctypes
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from outrider_engine.providers import PassedOver
from outrider_engine.session import Feeds, Session
from outrider_engine.walk import TensorFact
from outrider_wire.errors import BundleMismatchError

log = logging.getLogger(__name__)

COPIES = 2
"""Of a model's file, in memory."""
BASE_BYTES = 1 << 20
"""Besides."""


@dataclass(eq=False, kw_only=True)
class _Slot:
    """What `Residents` keeps of a session, which it must not keep alive."""

    name: str
    cost: int
    load: Callable[[], Session]
    loading: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    """Runs under way."""
    inner: Session | None = None


class Residents:
    """The loaded models of one process. Any thread may call it.

    Args:
        max_bytes: what all of them may take together; None: no bound.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._state = threading.Condition()
        self._held: list[_Slot] = []
        """Loaded, or about to be; the longest unused first."""
        self._orphans: deque[_Slot] = deque()
        """Whose session is gone; filled by the garbage collector, which may interrupt anything."""

    @property
    def taken_bytes(self) -> int:
        """What those that are loaded take."""
        with self._state:
            return self._taken()

    def session(self, name: str, file_bytes: int, load: Callable[[], Session]) -> Session:
        """A session that is loaded now, and again whenever it is needed.

        Args:
            name: for people.
            file_bytes: of the model's file.
            load: loads it; called again after it was let go, on the thread that needs it.

        Raises:
            BundleMismatchError: it alone is above the bound (``model_over_budget``); or as ``load`` raises.
        """
        if self._max_bytes is None:
            return load()
        cost = COPIES * file_bytes + BASE_BYTES
        if cost > self._max_bytes:
            raise BundleMismatchError(
                f"{name} takes {_mb(cost)} MB of memory, and runtime.models_mb is {_mb(self._max_bytes)}",
                reason="model_over_budget",
                fix="raise runtime.models_mb, or ship a smaller variant",
            )
        slot = _Slot(name=name, cost=cost, load=load)
        session = ResidentSession(self, slot)
        weakref.finalize(session, self._orphaned, slot).atexit = False
        return session

    @contextmanager
    def used(self, slot: _Slot) -> Iterator[Session]:
        """The session inside, loaded, and not let go until the block ends; waits while all others are in use and there is no room."""
        self._enter(slot)
        try:
            with slot.loading:
                if slot.inner is None:
                    slot.inner = slot.load()
                inner = slot.inner
            yield inner
        finally:
            self._leave(slot)

    def _enter(self, slot: _Slot) -> None:
        with self._state:
            slot.users += 1
            dropped = self._bury() | self._make_room(slot)
            if slot in self._held:
                self._held.remove(slot)
            self._held.append(slot)
            self._state.notify_all()  # another thread may wait for room for the same one
        if dropped:
            give_back()

    def _leave(self, slot: _Slot) -> None:
        with self._state:
            slot.users -= 1
            if slot.inner is None and not slot.users:
                self._held.remove(slot)  # it could not be loaded
            self._state.notify_all()

    def _make_room(self, wanted: _Slot) -> bool:
        """Lets go of the longest unused until ``wanted`` is held or fits; never of one in use."""
        dropped = False
        while (
            self._max_bytes is not None and wanted not in self._held and self._taken() + wanted.cost > self._max_bytes
        ):
            idle = next((slot for slot in self._held if not slot.users), None)
            if idle is None:
                self._state.wait()
                continue
            log.info("model.evicted", extra={"model": idle.name, "mb": _mb(idle.cost)})
            idle.inner = None
            self._held.remove(idle)
            dropped = True
        return dropped

    def _orphaned(self, slot: _Slot) -> None:
        slot.inner = None
        self._orphans.append(slot)

    def _bury(self) -> bool:
        found = bool(self._orphans)
        while self._orphans:
            slot = self._orphans.popleft()
            if slot in self._held:
                self._held.remove(slot)
        return found

    def _taken(self) -> int:
        self._bury()
        return sum(slot.cost for slot in self._held)


class ResidentSession:
    """A `outrider_engine.session.Session` that may be let go between two runs. Made by `Residents.session`."""

    def __init__(self, residents: Residents, slot: _Slot) -> None:
        self._residents = residents
        self._slot = slot
        with residents.used(slot) as session:
            self.inputs: Sequence[TensorFact] = session.inputs
            self.provider: str = session.provider
            self.passed_over: Sequence[PassedOver] = session.passed_over

    @property
    def resident(self) -> bool:
        """Whether it is loaded now."""
        return self._slot.inner is not None

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """As the session inside, loaded first where it has been let go; errors as its loading, too."""
        with self._residents.used(self._slot) as session:
            return session.run(feeds)


def give_back() -> None:
    """Asks the C library to give freed memory back to the system, where it knows how (glibc's ``malloc_trim``)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _mb(size: int) -> int:
    return -(-size // (1 << 20))
