"""Sessions that share a bounded memory: the longest unused gives way, and is loaded again when it is asked. Knows no tasks.

A `Resident` is a `outrider_engine.session.Session` like any other; whoever uses it sees only that a run took longer
(``load_ms``). What a session costs is how much this process's resident memory grew as it was loaded and first run, and at
least the size of its file: memory that another one gave back is used again without any growth to be seen.
"""

import logging
import resource
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from outrider_engine.providers import PassedOver
from outrider_engine.session import Feeds, Session
from outrider_engine.walk import TensorFact
from outrider_wire.errors import BundleMismatchError

log = logging.getLogger(__name__)

Hold = Callable[[Callable[[], Session], int], Session]
"""Makes a session out of what loads it and the size of its file in bytes."""
Pinned = Callable[[str], bool]
"""Whether the sessions of that owner must stay in memory now."""


class Residency:
    """Who is in memory. Safe to use from many threads.

    Args:
        limit_bytes: how much the sessions together may take; 0: there is no limit.
        pinned: asked before a session is evicted.
    """

    def __init__(self, *, limit_bytes: int = 0, pinned: Pinned = lambda _: False) -> None:
        self.limit_bytes = limit_bytes
        self.evicted = 0
        """How often one gave way."""
        self._pinned = pinned
        self._lock = threading.RLock()
        self._held: weakref.WeakSet[Resident] = weakref.WeakSet()
        self._warned = False

    def pin_when(self, pinned: Pinned) -> None:
        """Names who knows which owners must stay."""
        self._pinned = pinned

    def holder(self, owner: str) -> Hold:
        """What `outrider_engine.model.load_model` calls ``hold``, for one owner's models."""

        def hold(load: Callable[[], Session], size: int) -> Session:
            resident = Resident(owner=owner, load=load, size=size, residency=self)
            with self._lock:
                self._held.add(resident)
            resident.ensure()
            return resident

        return hold

    @property
    def used_bytes(self) -> int:
        """What those in memory take."""
        with self._lock:
            return sum(each.cost for each in self._held if each.loaded)

    def make_room(self, needed: int, newcomer: "Resident") -> None:
        """Evicts, the longest unused first, until ``needed`` more bytes fit, or nobody is left who may go."""
        if not self.limit_bytes:
            return
        with self._lock:
            around = sorted((each for each in self._held if each.loaded), key=lambda each: each.used_at)
            used = sum(each.cost for each in around)
            for each in around:
                if used + needed <= self.limit_bytes:
                    return
                if each is not newcomer and not self._pinned(each.owner) and each.evict():
                    used -= each.cost
                    self.evicted += 1
                    log.info("model.evicted", extra={"owner": each.owner, "bytes": each.cost, "for": newcomer.owner})
            if used + needed > self.limit_bytes and not self._warned:
                self._warned = True
                log.warning(
                    "models.over_budget",
                    extra={"limit": self.limit_bytes, "needed": used + needed, "what": "those in use need more"},
                )


class Resident:
    """A session that may be out of memory. Used by one thread at a time, and evicted by any."""

    def __init__(self, *, owner: str, load: Callable[[], Session], size: int, residency: Residency) -> None:
        self.owner = owner
        self.cost = size
        self.used_at = time.monotonic()
        self.load_ms = 0.0
        """What loading cost the last run; 0: it was in memory."""
        self._load = load
        self._residency = residency
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._inputs: Sequence[TensorFact] = ()
        self._provider = ""
        self._passed: Sequence[PassedOver] = ()

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self._session is not None

    @property
    def inputs(self) -> Sequence[TensorFact]:
        """What the model reads."""
        return self._inputs

    @property
    def provider(self) -> str:
        """What runs the model when it is in memory."""
        return self._provider

    @property
    def passed_over(self) -> Sequence[PassedOver]:
        """As its session's."""
        return self._passed

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name; loads the session first where it is out of memory. Errors as the session's, and its loading's."""
        with self._lock:
            self.load_ms = self._ensure()
            self.used_at = time.monotonic()
            session = self._session
            assert session is not None  # noqa: S101 - `_ensure` has set it, under the lock that `evict` takes
            return session.run(feeds)

    def ensure(self) -> None:
        """Loads it where it is out of memory."""
        with self._lock:
            self._ensure()
            self.used_at = time.monotonic()

    def evict(self) -> bool:
        """Gives its memory back; False where it is in use at this moment."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._session = None
        finally:
            self._lock.release()
        return True

    def _ensure(self) -> float:
        if self._session is not None:
            return 0.0
        began = time.perf_counter()
        self._residency.make_room(self.cost, self)
        before = resident_bytes()
        session = self._load()
        if self._provider and session.provider != self._provider:
            raise BundleMismatchError(
                f"the model was loaded again on {session.provider}, and {self._provider} ran it before",
                reason="provider_changed",
                fix="restart the agent: its certificate is for what ran before",
            )
        self._session, self._inputs = session, session.inputs
        self._provider, self._passed = session.provider, session.passed_over
        self.cost = max(self.cost, resident_bytes() - before)
        self._residency.make_room(0, self)
        return 1e3 * (time.perf_counter() - began)


def resident_bytes() -> int:
    """What this process has in memory; 0 where Linux's ``/proc`` is not to be had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
