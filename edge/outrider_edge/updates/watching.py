"""What is seen of a new model in its probation: the model before answers a share of its inputs too, beside it. Decides nothing.

The model before runs in a thread of its own, of lower priority, one input at a time; an input that comes while it is busy is not
compared. Nobody waits for it.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from outrider_edge.ports import Given, RuntimePort
from outrider_edge.updates.probation import Seen
from outrider_engine.model import Model
from outrider_wire.errors import OutriderError

SHARE = 4
"""One input in so many is compared."""
_NICE = 10


def rss_mb() -> float:
    """What this process has resident, in MB of 2^20 bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, kw_only=True)
class Senses:
    """How the device is asked how it fares. Each is cheap."""

    alarm: Callable[[], bool] = lambda: False
    """Whether the watch over the certificate in use has raised its alarm."""
    headroom_c: Callable[[], float | None] = lambda: None
    contact: Callable[[], bool] = lambda: True
    """Whether the cloud is reached, or there is none."""
    rss_mb: Callable[[], float] = rss_mb


@dataclass(frozen=True, kw_only=True)
class Before:
    """How the device fared with the model before, just before the swap."""

    p95_ms: float = 0.0
    rss_mb: float = 0.0
    headroom_c: float | None = None


class Watching:
    """Watches one probation; `close` ends it.

    Args:
        runtime: the model in use.
        before: the model before, loaded; None: there is nothing to compare with.
        was: how the device fared with it.
        senses: how it fares now.
        run_s, answers: of an earlier process in the same probation.
    """

    def __init__(
        self,
        *,
        runtime: RuntimePort,
        before: Model | None,
        was: Before,
        senses: Senses,
        run_s: float = 0.0,
        answers: int = 0,
    ) -> None:
        self._runtime = runtime
        self._before = before
        self._was = was
        self._senses = senses
        self._run_s = run_s
        self._answers = answers
        self._compared = self._agreed = self._shown = 0
        self._busy = self._contact = False
        self._model = runtime.model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probation", initializer=_be_nice)
        if before is not None:
            runtime.listen(self._shown_one)

    def seen(self, run_s: float) -> Seen:
        """What was seen so far.

        Args:
            run_s: run time since this was made.
        """
        runtime, senses = self._runtime, self._senses
        self._contact = self._contact or senses.contact()
        return Seen(
            run_s=self._run_s + run_s,
            answers=self._answers + runtime.served,
            failures=runtime.failed,
            compared=self._compared,
            agreed=self._agreed,
            timed=runtime.served,
            p95_ms=runtime.p95_ms,
            p95_before_ms=self._was.p95_ms,
            rss_mb=senses.rss_mb(),
            rss_before_mb=self._was.rss_mb,
            headroom_c=senses.headroom_c(),
            headroom_before_c=self._was.headroom_c,
            alarm=senses.alarm(),
            contact=self._contact,
        )

    def close(self) -> None:
        """The model before is not asked any more."""
        self._runtime.listen(None)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _shown_one(self, parts: Mapping[str, bytes | str], given: Given) -> None:
        self._shown += 1
        if self._before is None or self._busy or self._shown % SHARE or given.model.digest != self._model.digest:
            return
        self._busy = True
        try:
            self._thread.submit(self._compare, self._before, dict(parts), given.label)
        except RuntimeError:  # it has just been closed
            self._busy = False

    def _compare(self, before: Model, parts: Mapping[str, bytes | str], label: str) -> None:
        try:
            [inference] = before.infer([before.prepare(parts)])
        except OutriderError:
            return  # the model before cannot answer it: there is nothing to compare
        finally:
            self._busy = False
        self._agreed += label == before.labels[int(inference.probabilities.argmax())]
        self._compared += 1


def _be_nice() -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICE)  # of this thread alone, on Linux
