"""The applications: they ask many inputs at once, whatever happens, and write down every word that they are told."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from outrider.bench.inputs import noise_picture
from outrider.client import Client
from outrider.sim.records import Asked, question
from outrider_wire.errors import OutriderError
from outrider_wire.report import TERMINAL

SMALL_BYTES = 2_000
LOCAL_EVERY = 4
"""Of so many inputs one is not sent by all means: the device answers it if it is sure."""
_LOOK_S = 0.1


class Callers:
    """Many callers of several devices. Use as a context manager.

    Args:
        client: makes a client to a device.
        devices: asked in turn.
    """

    def __init__(self, *, client: Callable[[str], Client], devices: Sequence[str], task: str, at_once: int = 4) -> None:
        self.book: list[Asked] = []
        self._client = client
        self._devices = itertools.cycle(devices)
        self._task = task
        self._numbers = itertools.count(1)
        self._rng = np.random.default_rng(0)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="caller")
        self._own = threading.local()

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ask(self, count: int, *, large_bytes: int, large_every: int) -> "list[Future[None]]":
        """Asks so many inputs, and does not wait for what becomes of them; some are so large that the cloud pulls them."""
        futures = []
        for _ in range(count):
            asked = Asked(number=next(self._numbers), device=next(self._devices))
            self.book.append(asked)
            size = SMALL_BYTES if asked.number % large_every else large_bytes
            picture = noise_picture(self._rng, size)
            futures.append(self._pool.submit(self._ask, asked, picture))
        return futures

    def wait_final(self, asked: Sequence[Asked], *, within_s: float) -> None:
        """Looks every accepted input up until each has its end, or the time is over."""
        deadline = time.monotonic() + within_s
        waiting = [one for one in asked if one.id]
        while waiting and time.monotonic() < deadline:
            for one in waiting:
                self._look(one)
            waiting = [one for one in waiting if one.state not in TERMINAL]
            if waiting:
                time.sleep(_LOOK_S)

    def look_again(self, asked: Sequence[Asked]) -> None:
        """Looks every one up once more: what is final must be what it was."""
        for one in asked:
            if one.accepted:
                self._look(one)

    def _ask(self, asked: Asked, picture: bytes) -> None:
        parts: dict[str, bytes | str] = {"image": picture, "question": question(asked.number)}
        insist = asked.number % LOCAL_EVERY != 0
        try:
            report = self._of(asked.device).ask(self._task, dict(parts), wait=False, insist=insist)
        except OutriderError:
            return  # in doubt: the device may have taken it and died, or never have heard of it
        asked.id = report.id
        asked.hear(report)

    def _look(self, asked: Asked) -> None:
        try:
            asked.hear(self._of(asked.device).get(asked.id))
        except OutriderError as error:
            if error.reason == "unknown_input":
                asked.told.append(("unknown", None))

    def _of(self, device: str) -> Client:
        """A client of this thread's own: connections that a killed device leaves are not shared."""
        clients = self._own.__dict__.setdefault("clients", {})
        if device not in clients:
            clients[device] = self._client(device)
        client: Client = clients[device]
        return client
