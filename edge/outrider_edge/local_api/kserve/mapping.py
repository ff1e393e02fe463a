"""A task as a model of the Open Inference Protocol: parts as input tensors, a report as output tensors. Pure.

The first side of every tensor is the batch: its rows are inputs of their own, each with its own answer and place in the account.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from outrider_edge.journey.pipeline import Parts, TaskRuntime
from outrider_edge.local_api.kserve.messages import Datatype, InferParameters, ModelView, TensorView
from outrider_edge.local_api.kserve.tensors import Output, Tensor
from outrider_wire.errors import CallerInputError
from outrider_wire.messages import Modality
from outrider_wire.report import AnswerReport
from outrider_wire.task import InputPart, Task

PLATFORM = "outrider_bundle"
BATCH = 64
"""Inputs in one request."""
_DATATYPES: Mapping[Modality, Datatype] = {"image": "BYTES", "audio": "BYTES", "text": "BYTES", "series": "FP32"}
"""Images and audio are files as they are; a series is its numbers."""

Value = Callable[[AnswerReport], Any]
_OUTPUTS: tuple[tuple[str, Datatype, Value], ...] = (
    ("label", "BYTES", lambda report: report.label or ""),
    ("confidence", "FP32", lambda report: report.confidence),
    ("certified", "BOOL", lambda report: report.certified),
    ("final", "BOOL", lambda report: report.final),
    ("late", "BOOL", lambda report: report.late),
    ("answered_by", "BYTES", lambda report: report.answered_by),
    ("state", "BYTES", lambda report: report.state),
    ("why", "BYTES", lambda report: report.why),
    ("note", "BYTES", lambda report: report.note),
    ("input_id", "BYTES", lambda report: report.id),
)
"""Name, datatype and value: one a row, as in `AnswerReport`. Beside them: ``probabilities``, a row a label."""
OUTPUTS = ("probabilities", *(name for name, _, _ in _OUTPUTS))


def model_view(runtime: TaskRuntime) -> ModelView:
    """The task's metadata."""
    task = runtime.task
    return ModelView(
        name=task.name,
        versions=[runtime.model.manifest.version],
        platform=PLATFORM,
        inputs=[
            TensorView(name=part.name, datatype=_DATATYPES[part.modality], shape=_shape(part)) for part in task.inputs
        ],
        outputs=[
            TensorView(name="probabilities", datatype="FP32", shape=[-1, len(task.labels)]),
            *(TensorView(name=name, datatype=datatype, shape=[-1]) for name, datatype, _ in _OUTPUTS),
        ],
    )


def parts_of(task: Task, tensors: Sequence[Tensor]) -> list[Parts]:
    """The inputs of a batch. Which parts must be there is the pipeline's to judge.

    Raises:
        CallerInputError: a tensor comes twice, is not what its part is made of, or another number of inputs than the others.
    """
    rows: dict[str, list[bytes | str]] = {}
    for tensor in tensors:
        if tensor.name in rows:
            raise _unfit(tensor.name, "comes twice", reason="duplicate_part")
        part = task.part(tensor.name)
        rows[tensor.name] = _column(tensor, part.modality if part else None)
    sizes = {len(column) for column in rows.values()}
    if len(sizes) != 1 or not 1 <= max(sizes) <= BATCH:
        raise CallerInputError(
            f"the first sides of the tensors are {sorted(sizes)}, and not one number between 1 and {BATCH}",
            reason="wrong_shape",
            fix="the first side is the batch: as many inputs in each tensor",
        )
    return [{name: column[row] for name, column in rows.items()} for row in range(max(sizes))]


def outputs_of(task: Task, reports: Sequence[AnswerReport]) -> list[Output]:
    """The tensors that tell of these reports, in the order of `OUTPUTS`."""
    shares = [report.probabilities.get(label, 0.0) for report in reports for label in task.labels]
    return [
        Output("probabilities", "FP32", [len(reports), len(task.labels)], shares),
        *(
            Output(name, datatype, [len(reports)], [value(report) for report in reports])
            for name, datatype, value in _OUTPUTS
        ),
    ]


def deadline_ms(parameters: InferParameters) -> int | None:
    """The caller's deadline; None: the task's.

    Raises:
        CallerInputError: it is said twice.
    """
    if parameters.timeout is None:
        return parameters.answer_within_ms
    if parameters.answer_within_ms is not None:
        raise CallerInputError(
            "answer_within_ms and timeout are one wish", reason="invalid_parameter", fix="give one of them"
        )
    return -(-parameters.timeout // 1000)


def _column(tensor: Tensor, modality: Modality | None) -> list[bytes | str]:
    """One part of every input of the batch."""
    if isinstance(tensor.values, np.ndarray):
        if modality not in ("series", None):
            raise _unfit(tensor.name, f"is FP32, and part {modality} is BYTES", reason="wrong_datatype")
        return [row.tobytes() for row in tensor.values.reshape(tensor.shape[0], -1)] if tensor.values.size else []
    if modality == "series":
        raise _unfit(tensor.name, "is BYTES, and a series is FP32", reason="wrong_datatype")
    if any(side != 1 for side in tensor.shape[1:]):
        raise _unfit(tensor.name, f"has shape {list(tensor.shape)}: one element an input is read", reason="wrong_shape")
    if modality in ("image", "audio") and any(isinstance(value, str) for value in tensor.values):
        raise _unfit(
            tensor.name,
            f"is text, and part {modality} is a file",
            reason="wrong_type",
            fix="send it as binary data, or as base64 with the tensor's parameter content_type = base64",
        )
    return list(tensor.values)


def _shape(part: InputPart) -> list[int]:
    return [-1, -1] if part.modality == "series" else [-1]


def _unfit(name: str, what: str, *, reason: str, fix: str = "ask for the model's metadata") -> CallerInputError:
    return CallerInputError(f"input {name[:64]!r} {what}", reason=reason, fix=fix, part=name[:64])
