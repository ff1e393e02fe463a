"""One task's model in use: parts in, the device's own answer and the rule's verdict out. Knows no gate, outbox or account.

Where it computes is measured, not configured: a hop to a thread costs about 0.1 ms, so that an input cheaper than
`LOOP_MS` is answered on the event loop, and any other in the task's own thread. A model that has not been timed yet hops.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from numpy.typing import NDArray

from outrider_engine.model import Model
from outrider_wire.acceptance import Verdict
from outrider_wire.errors import BundleMismatchError, CallerInputError, OutriderError
from outrider_wire.task import Task

LOOP_MS = 1.0
"""Inputs that cost more than this never hold up the event loop."""
LOOP_BYTES = 256 * 1024
"""Nor does an input of more bytes: decoding it takes longer than the ones before it did."""
_STEP = 1.1
"""How far the running median of the cost moves at each input: one slow input changes nothing, thirty do."""
_WARM_RUNS = 3
_RECENT = 256
"""Answers that the p95 of the model in use is over."""

Parts = Mapping[str, bytes | str]


class LocalAnswer(NamedTuple):
    """What the device itself says of one input."""

    model: Model
    """That answered; by now another one may be in use."""
    label: str
    probabilities: list[float]
    """Calibrated, in the order of the task's labels."""
    verdict: Verdict
    unread: tuple[str, ...]
    """The parts of which the model could read nothing."""
    prepare_ms: float
    model_ms: float
    """Inference and verdict."""
    embedding: NDArray[Any] | None = None
    """As `outrider_engine.model.Inference.embedding`."""


Watcher = Callable[[Parts, LocalAnswer], None]


class TaskRuntime:
    """One task's model, swapped without a pause.

    Args:
        task: what the model answers.
        model: loaded, for this task's labels in their order and the bounds of its parts.
    """

    def __init__(self, *, task: Task, model: Model) -> None:
        self.task = task
        self.model = model
        self.served = 0
        """Inputs answered since the last swap."""
        self.failed = 0
        """Inputs on which the model itself failed since the last swap."""
        self.swaps = 0
        self.behind: tuple[str, str] | None = None
        """The large model that last answered what this device sent, and its strategy; None: none has yet."""
        self._cost_ms: float | None = None
        self._hopped = 0
        self._watcher: Watcher | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"model-{task.name}")

    def warm(self) -> float:
        """Times the model on zeros, so that the first input already knows where to run. Milliseconds, the best of a few."""
        best = min(_timed(self.model) for _ in range(_WARM_RUNS))
        self._cost_ms = best
        return best

    def swap(self, model: Model) -> None:
        """The next input gets ``model``, which is loaded and warm; inputs under way finish on the one they began with.

        Raises:
            BundleMismatchError: it answers another question; nothing has changed.
        """
        check_fit(self.task, model)
        self.model = model
        self.served = self.failed = 0
        self.swaps += 1
        self._cost_ms = None
        self._recent.clear()

    def listen(self, watcher: "Watcher | None") -> None:
        """Names who is shown every input and its answer, on whichever thread it was given. It must return at once, and not raise."""
        self._watcher = watcher

    @property
    def p95_ms(self) -> float:
        """Of the model in use, over its recent answers; 0: it has given none."""
        ordered = sorted(self._recent)
        return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0

    def heard(self, large: str, strategy: str) -> str:
        """Notes who answers in the cloud. Why the system's claim falls with that, if it does so just now; else ''."""
        known, self.behind = self.behind, (large, strategy)
        return self.system_fault if known != self.behind else ""

    @property
    def system_fault(self) -> str:
        """Why the certificate's claim about the whole system may not be made; '' where it may, or where there is none."""
        certificate = self.model.manifest.certificate
        if certificate is None or certificate.system is None or self.behind is None:
            return ""
        return certificate.system.fault(*self.behind)

    def answers_in_loop(self, size: int) -> bool:
        """Whether an input of that many bytes is answered on the event loop: the model serves one thread at a time."""
        fast = self._cost_ms is not None and self._cost_ms <= LOOP_MS
        return fast and size <= LOOP_BYTES and not self._hopped

    async def ask(self, parts: Parts) -> LocalAnswer:
        """`answer`, on the event loop or in the task's thread, whichever costs less."""
        if self.answers_in_loop(sum(map(len, parts.values()))):
            return self.answer(parts)
        self._hopped += 1
        hop = asyncio.get_running_loop().run_in_executor(self._thread, self.answer, parts)
        hop.add_done_callback(self._landed)
        return await asyncio.shield(hop)  # a caller who goes away does not free the thread

    def answer(self, parts: Parts) -> LocalAnswer:
        """The device's own answer, computed here and now.

        Raises:
            CallerInputError: the input is not one of the task's.
            BundleMismatchError: the model failed.
        """
        model, started = self.model, time.perf_counter()
        try:
            tensors = model.prepare(parts)
            prepared = time.perf_counter()
            [inference] = model.infer([tensors])
        except CallerInputError:
            raise
        except OutriderError:
            self.failed += model is self.model
            raise
        verdict = model.judge(inference, parts)
        probabilities: list[float] = inference.probabilities.tolist()
        done = time.perf_counter()
        self._note(1e3 * (done - started))
        if model is self.model:
            self.served += 1
            self._recent.append(1e3 * (done - started))
        answer = LocalAnswer(
            model=model,
            label=model.labels[max(range(len(probabilities)), key=probabilities.__getitem__)],
            probabilities=probabilities,
            verdict=verdict,
            unread=inference.unread,
            prepare_ms=1e3 * (prepared - started),
            model_ms=1e3 * (done - prepared),
            embedding=inference.embedding,
        )
        if (watcher := self._watcher) is not None:
            watcher(parts, answer)
        return answer

    def close(self) -> None:
        """Ends the task's thread when the inputs under way are answered."""
        self._thread.shutdown(wait=True)

    def _note(self, ms: float) -> None:
        """Moves the running median of the cost towards this input's."""
        known = self._cost_ms
        self._cost_ms = ms if known is None else known * _STEP if ms > known else known / _STEP

    def _landed(self, hop: "asyncio.Future[LocalAnswer]") -> None:
        self._hopped -= 1
        if not hop.cancelled():
            hop.exception()  # seen, should its caller have gone


def check_fit(task: Task, model: Model) -> None:
    """Whether the model answers this task, in the order of its labels.

    Raises:
        BundleMismatchError: it does not.
    """
    manifest = model.manifest
    if manifest.task != task.name:
        raise BundleMismatchError(
            f"the bundle is for task {manifest.task!r}, not for {task.name!r}",
            reason="wrong_task",
            fix="name the bundle that was built for this task",
        )
    if manifest.labels != task.labels:
        raise BundleMismatchError(
            f"the bundle's labels are not those of task {task.name!r}, in their order",
            reason="wrong_labels",
            fix="build the bundle again from this task file",
        )


def _timed(model: Model) -> float:
    started = time.perf_counter()
    model.dry_run()
    return 1e3 * (time.perf_counter() - started)
