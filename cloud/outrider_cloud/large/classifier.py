"""A transformers encoder with a classification head, in process. Its probabilities are the softmax of its logits.

Loaded from safetensors without remote code and without a network.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from outrider_cloud.large.base import Cost, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.checkpoints import Checkpoint, label_order
from outrider_cloud.large.in_process import InProcess, loaded
from outrider_engine.decoder import decoder_of
from outrider_wire.calibration import softmax
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.images import decode_picture
from outrider_wire.task import InputPart, Task

_TOKENS = 512
"""Longest text where the tokenizer knows no limit of its own."""


class Classifier(InProcess):
    """Texts (one, or a pair) or one image → the task's labels."""

    def __init__(self, *, checkpoint: Checkpoint, task: Task, threads: int = 1) -> None:
        super().__init__(folder=checkpoint.folder, threads=threads)
        self._task = task
        self._order = label_order(checkpoint, task.labels, task.name)
        self._parts = _read_parts(checkpoint, task)
        folder = checkpoint.folder
        if checkpoint.head == "image-classifier":
            self._model = loaded(AutoModelForImageClassification, folder)
            self._processor: Any = loaded(AutoImageProcessor, folder, weights=False, use_fast=False)
        else:
            self._model = loaded(AutoModelForSequenceClassification, folder)
            self._tokenizer: Any = loaded(AutoTokenizer, folder, weights=False)
        self._reads_images = checkpoint.head == "image-classifier"
        self._decoder = decoder_of(self._parts)
        self._decode = self._decoder or decode_picture

    async def close(self) -> None:
        """As `InProcess.close`; the process that decodes pictures ends too."""
        await super().close()
        if self._decoder is not None:
            self._decoder.close()

    def replies(self, batch: Sequence[LargeRequest]) -> list[LargeReply | LargeRefusal]:
        """One forward pass for all that can be read."""
        started = time.perf_counter()
        readable, said = [], []
        for request in batch:
            refusal: LargeRefusal | None = None
            try:
                readable.append(self._values(request))
            except CallerInputError as error:
                refusal = LargeRefusal(reason=error.reason, detail=str(error)[:512])
            said.append(refusal)
        rows = iter(self._probabilities(readable) if readable else ())
        ms = (time.perf_counter() - started) * 1000 / len(batch)
        return [refusal or self._reply(*next(rows), ms=ms) for refusal in said]

    def _reply(self, probabilities: np.ndarray, tokens: int, *, ms: float) -> LargeReply:
        return LargeReply(probabilities=[float(p) for p in probabilities], cost=Cost(tokens=tokens, ms=ms))

    def _values(self, request: LargeRequest) -> list[Any]:
        if not self._reads_images:
            return [_text(part.name, request.parts[part.name]) for part in self._parts]
        [part] = self._parts
        data = request.parts[part.name]
        return [self._decode(data, part=part.name, mode="RGB", max_pixels=part.max_pixels)]

    def _probabilities(self, rows: list[list[Any]]) -> list[tuple[np.ndarray, int]]:
        if self._reads_images:
            inputs = self._processor(images=[picture for [picture] in rows], return_tensors="pt")
            tokens = [0] * len(rows)
        else:
            columns = [list(column) for column in zip(*rows, strict=True)]
            limit = min(int(self._tokenizer.model_max_length), _TOKENS)
            inputs = self._tokenizer(*columns, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            tokens = inputs["attention_mask"].sum(dim=1).tolist()
        with torch.inference_mode():
            logits = self._model(**inputs).logits.float().numpy()
        probabilities = softmax(logits[:, self._order])
        return list(zip(probabilities, tokens, strict=True))


def _read_parts(checkpoint: Checkpoint, task: Task) -> list[InputPart]:
    """The parts of the task, in its order, when this head reads them all."""
    modalities = [part.modality for part in task.inputs]
    reads = modalities == ["image"] if checkpoint.head == "image-classifier" else modalities in (["text"], ["text"] * 2)
    if not reads:
        raise OperatorConfigError(
            f"the {checkpoint.head} in {checkpoint.folder} does not read the parts of task {task.name!r}: "
            f"{', '.join(modalities)}",
            reason="modality_not_read",
            fix="a text classifier reads one text or two, an image classifier one image; use an expert bundle for others",
        )
    return task.inputs


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CallerInputError(f"part {name!r} is not UTF-8 text", reason="not_utf8", part=name) from error
