"""One task's model in use: parts in, the device's own answer and the rule's verdict out. Knows no gate, outbox or account.

Where it computes is measured, not configured: a hop to a thread costs about 0.1 ms, so that an input cheaper than
`LOOP_MS` is answered on the event loop, and any other in the task's own thread. A model that has not been timed yet hops. What waits
for the thread is answered together where the configuration allows it and that was measured to help (`outrider_edge.journey.batching`).
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from numpy.typing import NDArray

from outrider_edge.journey.batching import SIZES, rows_now
from outrider_engine.model import Inference, Model
from outrider_wire.acceptance import Verdict
from outrider_wire.errors import BundleMismatchError, CallerInputError, OutriderError
from outrider_wire.task import Task

log = logging.getLogger(__name__)

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


class _Waiting(NamedTuple):
    """One input that waits for the thread."""

    parts: Parts
    deadline: float
    """On `time.perf_counter`, in seconds."""
    answer: "asyncio.Future[LocalAnswer]"


Watcher = Callable[[Parts, LocalAnswer], None]


class TaskRuntime:
    """One task's model, swapped without a pause.

    Args:
        task: what the model answers.
        model: loaded, for this task's labels in their order and the bounds of its parts.
        max_batch: inputs that may be answered at once; 1: each alone.
    """

    def __init__(self, *, task: Task, model: Model, max_batch: int = 1) -> None:
        self.task = task
        self.model = model
        self.plain = model
        """The same as ONNX Runtime runs it: what answers when a native engine fails."""
        self.engines: dict[str, str] = {}
        """Native engine that is wanted and does not run → why, or how far it is."""
        self.replaying = ""
        """How far the replay is that may give what runs here its certificate; '' without one."""
        self.on_swap: Callable[[], None] = lambda: None
        """Called after each swap, on the event loop."""
        self.served = 0
        """Inputs answered since the last swap."""
        self.failed = 0
        """Inputs on which the model itself failed since the last swap."""
        self.swaps = 0
        self.behind: tuple[str, str] | None = None
        """The large model that last answered what this device sent, and its strategy; None: none has yet."""
        self._cost_ms: float | None = None
        self._hopped = 0
        self._max_batch = max_batch
        self._batch_s: dict[int, float] = {}
        """Rows at once → seconds, as measured."""
        self._waiting: deque[_Waiting] = deque()
        self._watcher: Watcher | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"model-{task.name}")

    def warm(self) -> float:
        """Times the model on zeros, so that the first input already knows where to run. Milliseconds, the best of a few."""
        best = min(_timed(self.model) for _ in range(_WARM_RUNS))
        self._cost_ms = best
        self._measure_batches()
        return best

    def swap(self, model: Model) -> None:
        """The next input gets ``model``, which is loaded and warm; inputs under way finish on the one they began with.

        Raises:
            BundleMismatchError: it answers another question; nothing has changed.
        """
        check_fit(self.task, model)
        self.model = self.plain = model
        self.replaying = ""
        self.served = self.failed = 0
        self.swaps += 1
        self._forget_cost()
        self._recent.clear()
        self.on_swap()

    def renew(self, model: Model, claiming: Model) -> bool:
        """The next input gets ``claiming``, the same model under a certificate; False: another one is in use by now."""
        if self.plain is not model:
            return False
        if self.model is model:
            self.model = claiming
        self.plain = claiming
        return True

    async def between(self, work: Callable[[], bool]) -> bool:
        """Does ``work``, which uses the model, between two inputs; so that it should be short."""
        self._hopped += 1
        hop = asyncio.get_running_loop().run_in_executor(self._thread, work)
        hop.add_done_callback(self._landed)
        return await asyncio.shield(hop)

    def take_over(self, engine: Model, plain: Model) -> bool:
        """The next input gets ``engine``, built from what ``plain`` runs; False: another model is in use by now."""
        if self.model is not plain:
            return False
        self.model = engine
        self._forget_cost()
        return True

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
        return fast and size <= LOOP_BYTES and not self._hopped and self.model.resident

    async def ask(self, parts: Parts, deadline: float = math.inf) -> LocalAnswer:
        """`answer`, on the event loop or in the task's thread, whichever costs less; by ``deadline`` (`time.perf_counter`) if it can."""
        if self.answers_in_loop(sum(map(len, parts.values()))):
            return self.answer(parts)
        self._hopped += 1
        loop = asyncio.get_running_loop()
        if self._max_batch == 1:
            hop = loop.run_in_executor(self._thread, self.answer, parts)
            hop.add_done_callback(self._landed)
            return await asyncio.shield(hop)  # a caller who goes away does not free the thread
        waiting = _Waiting(parts, deadline, loop.create_future())
        self._waiting.append(waiting)
        loop.run_in_executor(self._thread, self._answer_some, loop).add_done_callback(self._landed)
        return await asyncio.shield(waiting.answer)

    def _answer_some(self, loop: asyncio.AbstractEventLoop) -> None:
        """Some of those that wait, as many at once as the rule says; one that an earlier call has taken along is gone by now."""
        first = [self._waiting[place] for place in range(min(len(self._waiting), self._max_batch))]
        rows = rows_now([each.deadline for each in first], time.perf_counter(), self._batch_s)
        taken = [self._waiting.popleft() for _ in range(rows)]
        answers: Sequence[LocalAnswer | Exception]
        try:
            answers = self.answers([each.parts for each in taken])
        except Exception as error:  # a fault of our own: told to who waits, who would else wait for ever
            log.exception("batch.broken", extra={"task": self.task.name})
            answers = [error] * rows
        loop.call_soon_threadsafe(_deliver, taken, answers)

    def answers(self, asked: Sequence[Parts]) -> list[LocalAnswer | Exception]:
        """`answer` of each, together; an input that is none, or a batch that fails, costs the others nothing."""
        if len(asked) == 1:
            return [self._tried(asked[0])]
        model, started, ready = self.model, time.perf_counter(), {}
        for place, parts in enumerate(asked):
            with contextlib.suppress(OutriderError):  # it is tried alone, and told what the matter is
                began = time.perf_counter()
                ready[place] = model.prepare(parts), 1e3 * (time.perf_counter() - began)
        prepared = time.perf_counter()
        try:
            found = dict(zip(ready, model.infer([tensors for tensors, _ in ready.values()]), strict=True))
        except OutriderError as error:
            log.warning("batch.failed", extra={"task": self.task.name, "rows": len(ready), "what": error.what})
            found, self._batch_s = {}, {}
        said: list[LocalAnswer | Exception] = []
        for place, parts in enumerate(asked):
            if place not in found:
                said.append(self._tried(parts))
                continue
            verdict = model.judge(found[place], parts)
            model_ms = 1e3 * (time.perf_counter() - prepared)
            answer = _local(model, found[place], verdict, prepare_ms=ready[place][1], model_ms=model_ms)
            self._count(parts, answer)
            said.append(answer)
        log.debug("batch.answered", extra={"rows": len(found), "ms": 1e3 * (time.perf_counter() - started)})
        return said

    def _tried(self, parts: Parts) -> LocalAnswer | Exception:
        try:
            return self.answer(parts)
        except OutriderError as error:
            return error

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
        except OutriderError as error:
            if model is not self.plain and self._step_back(model, error):
                return self.answer(parts)
            self.failed += model is self.model
            raise
        verdict = model.judge(inference, parts)
        done = time.perf_counter()
        self._note(1e3 * (done - started))
        prepare_ms, model_ms = 1e3 * (prepared - started), 1e3 * (done - prepared)
        answer = _local(model, inference, verdict, prepare_ms=prepare_ms, model_ms=model_ms)
        self._count(parts, answer)
        return answer

    def _count(self, parts: Parts, answer: LocalAnswer) -> None:
        """Whoever watches the model in use sees every answer, alone or of a batch: a new release is judged by them."""
        if answer.model is self.model:
            self.served += 1
            self._recent.append(answer.prepare_ms + answer.model_ms)
        if (watcher := self._watcher) is not None:
            watcher(parts, answer)

    def _step_back(self, engine: Model, error: OutriderError) -> bool:
        """ONNX Runtime answers again: an engine that fails is no fault of the release. False: another model is in use by now."""
        if self.model is not engine:
            return False
        name = engine.variant.provider
        self.engines[name] = f"it failed on an input, and is not tried again before the next start: {error.what}"
        log.error("engine.failed", extra={"task": self.task.name, "engine": name, "what": error.what})
        self.model = self.plain
        self._cost_ms, self._batch_s = None, {}
        return True

    def close(self) -> None:
        """Ends the task's thread when the inputs under way are answered."""
        self._thread.shutdown(wait=True)

    def _forget_cost(self) -> None:
        """Another model runs: what it costs is measured anew, in the thread."""
        self._cost_ms, self._batch_s = None, {}
        if self._max_batch > 1:
            self._thread.submit(self._measure_batches)

    def _measure_batches(self) -> None:
        model, found = self.model, {}
        for size in SIZES:
            if size > self._max_batch or self._max_batch == 1 or (size > 1 and model.one_by_one):
                break
            try:
                found[size] = min(_timed(model, size) for _ in range(_WARM_RUNS)) / 1e3
            except OutriderError:  # it takes no such batch
                break
        self._batch_s = found if model is self.model else {}

    def _note(self, ms: float) -> None:
        """Moves the running median of the cost towards this input's."""
        known = self._cost_ms
        self._cost_ms = ms if known is None else known * _STEP if ms > known else known / _STEP

    def _landed(self, hop: "asyncio.Future[Any]") -> None:
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


def _local(model: Model, said: Inference, verdict: Verdict, *, prepare_ms: float, model_ms: float) -> LocalAnswer:
    probabilities: list[float] = said.probabilities.tolist()
    return LocalAnswer(
        model=model,
        label=model.labels[probabilities.index(max(probabilities))],
        probabilities=probabilities,
        verdict=verdict,
        unread=said.unread,
        prepare_ms=prepare_ms,
        model_ms=model_ms,
        embedding=said.embedding,
    )


def _deliver(taken: Sequence[_Waiting], answers: Sequence[LocalAnswer | Exception]) -> None:
    for waiting, answer in zip(taken, answers, strict=True):
        if waiting.answer.done():
            continue
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)


def _timed(model: Model, rows: int = 1) -> float:
    started = time.perf_counter()
    model.dry_run(rows)
    return 1e3 * (time.perf_counter() - started)
