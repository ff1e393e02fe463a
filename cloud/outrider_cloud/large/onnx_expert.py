"""An exported ONNX expert as the large model: a bundle like any other, run by the same engine as on the device.

Its probabilities are softmax(logits / temperature) with the temperature of its manifest. One thread of its own computes, so
that the event loop never does. A bundle may read a part ``facts`` beside the task's own: the answers to the sub-tasks.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from outrider_cloud.large.base import Cost, LargeRefusal, LargeReply, LargeRequest
from outrider_wire.errors import BundleMismatchError, CallerInputError
from outrider_wire.task import FACTS_PART, Task

if TYPE_CHECKING:
    from outrider_engine.decoder import PictureDecoder
    from outrider_engine.model import Model


class OnnxExpert:
    """A loaded model behind the `LargeModel` seam."""

    def __init__(self, *, model: "Model", task: Task, decoder: "PictureDecoder | None" = None) -> None:
        check_fits(model, task)
        self._decoder = decoder
        self._model = model
        self._reads_facts = any(entry.part == FACTS_PART for entry in model.manifest.inputs)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-model")

    @property
    def name(self) -> str:
        """Version and digest of the bundle."""
        return f"{self._model.manifest.version}@{self._model.digest[:12]}"

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        """Prepares, infers in one call, and shares the time out over the batch."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, batch)

    async def close(self) -> None:
        """Waits for the batch in hand."""
        self._thread.shutdown(wait=True)
        if self._decoder is not None:
            self._decoder.close()

    def _answer(self, batch: Sequence[LargeRequest]) -> list[LargeReply | LargeRefusal]:
        started = time.perf_counter()
        prepared, replies = [], []
        for request in batch:
            refusal: LargeRefusal | None = None
            try:
                prepared.append(self._model.prepare(self._parts(request)))
            except CallerInputError as error:
                refusal = LargeRefusal(reason=error.reason, detail=str(error))
            replies.append(refusal)
        inferred = iter(self._model.infer(prepared) if prepared else ())
        cost = Cost(ms=(time.perf_counter() - started) * 1000 / len(batch))
        return [
            refusal or LargeReply(probabilities=[float(p) for p in next(inferred).probabilities], cost=cost)
            for refusal in replies
        ]

    def _parts(self, request: LargeRequest) -> Mapping[str, bytes]:
        """The input's own parts, and the facts where the model reads them: none of them where none were told."""
        if not self._reads_facts:
            return request.parts
        return {**request.parts, FACTS_PART: msgspec.json.encode(request.facts)}


def check_fits(model: "Model", task: Task) -> None:
    """Whether the expert answers this very task.

    Raises:
        BundleMismatchError: it has other labels or reads other parts.
    """
    if list(model.labels) != task.labels:
        raise BundleMismatchError(
            f"the large model of task {task.name!r} has other labels than the task",
            reason="labels_mismatch",
            fix="export an expert with the task's labels, in the task's order",
        )
    facts = {FACTS_PART} if task.subtasks else set()
    if {entry.part for entry in model.manifest.inputs} - facts != {part.name for part in task.inputs}:
        raise BundleMismatchError(
            f"the large model of task {task.name!r} reads other parts than the task has",
            reason="parts_mismatch",
            fix="export an expert that reads the task's parts",
        )
