"""What a language model is told of a request: one rendering for every backend that reads text. Pure.

The small model's distribution and the facts are worded as in Data Shunt+ (arXiv 2406.15471). What the parts say is data: it
stands in a line of its own that it cannot end, and a model answers with one of the codes or labels whatever it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider_cloud.large.base import LargeRequest
from outrider_cloud.large.quoting import TEXT_CHARACTERS, quoted
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.pictures import upright
from outrider_wire.task import Task

CODES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOTHING = "N/A"
"""What stands for a text when a model is asked what it would say of no input at all."""
_LEAST_TOLD = 0.005
"""Labels that the small model gives less are not worth a line."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked."""

    text: str
    images: Sequence[tuple[str, bytes]] = ()
    """(media type, bytes), in the task's order."""


def check_modalities(task: Task, readable: Sequence[str], kind: str) -> None:
    """Whether a backend can read every part of the task.

    Raises:
        OperatorConfigError: it cannot.
    """
    for part in task.inputs:
        if part.modality not in readable:
            raise OperatorConfigError(
                f"a large model of kind {kind} does not read {part.modality}, and task {task.name!r} has part {part.name!r}",
                reason="modality_not_read",
                fix='use an expert bundle: large = "onnx:DIR"',
            )


def check_codes(task: Task) -> None:
    """Whether every label has a code when all are asked about, as audits are whatever the strategy.

    Raises:
        OperatorConfigError: there are too many.
    """
    if len(task.labels) > len(CODES):
        raise OperatorConfigError(
            f"task {task.name!r} has {len(task.labels)} labels, and a server is asked for one of {len(CODES)} letters",
            reason="too_many_labels",
            fix='use a large model that scores labels: large = "transformers:DIR" or "onnx:DIR"',
        )


def codes_of(request: LargeRequest) -> dict[int, str]:
    """Label index → its code, the same for every input where the letters suffice for all labels.

    Raises:
        CallerInputError: there are more labels to ask about than letters.
    """
    asked = request.asked
    if len(request.labels) <= len(CODES):
        return {k: CODES[k] for k in asked}
    if len(asked) > len(CODES):
        raise CallerInputError(
            f"{len(asked)} labels are asked about, and there are {len(CODES)} codes",
            reason="too_many_labels",
            fix='use a large model that scores labels: large = "transformers:DIR" or "onnx:DIR"',
        )
    return dict(zip(asked, CODES, strict=False))


def choice_prompt(task: Task, request: LargeRequest, codes: dict[int, str]) -> Prompt:
    """Asks for the code of one label.

    Raises:
        CallerInputError: a text part is not UTF-8.
    """
    listed = "\n".join(f"{code}: {request.labels[k]}" for k, code in codes.items())
    asking = f"Answer with the one letter of the right label and nothing else.\n{listed}"
    return _prompt(task, request, asking)


def label_prompt(task: Task, request: LargeRequest) -> Prompt:
    """Asks for one label itself; what follows the text is the label.

    Raises:
        CallerInputError: a text part is not UTF-8.
    """
    listed = ", ".join(request.labels[k] for k in request.asked)
    return _prompt(task, request, f"Answer with one of these labels and nothing else: {listed}.")


def without_input(task: Task, request: LargeRequest) -> LargeRequest:
    """The same question about no input: what the model says then is its prior (arXiv 2102.09690)."""
    parts = {part.name: NOTHING.encode() for part in task.inputs if part.modality == "text"}
    return LargeRequest(parts=parts, labels=request.labels, small=request.small, candidates=request.candidates)


def _prompt(task: Task, request: LargeRequest, asking: str) -> Prompt:
    blocks = [task.prompt.text or task.description or "Classify this input."]
    images: list[tuple[str, bytes]] = []
    for part in task.inputs:
        data = request.parts.get(part.name)
        if data is not None and part.modality == "image":
            images.append((_image_type(data), upright(data, max_pixels=part.max_pixels)))  # servers seldom heed the tag
        elif data is not None:
            blocks.append(f"{part.name}: {quoted(_text(part.name, data))}")
    if request.facts:
        known = [f"- {fact.name}: {fact.label} (confidence {fact.confidence:.2f})" for fact in request.facts]
        blocks.append("\n".join(["Already known:", *known]))
    if request.tell_small:
        said = [
            f"- a {request.labels[k]} with probability {request.small[k]:.2f}"
            for k in request.asked
            if request.small[k] >= _LEAST_TOLD
        ]
        blocks.append("\n".join(["A small model says that it is", *said]))
    return Prompt(text="\n\n".join([*blocks, asking]), images=images)


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CallerInputError(
            f"part {name!r} is not UTF-8 text", reason="not_utf8", fix="send text encoded as UTF-8", part=name
        ) from error
    if len(text) > TEXT_CHARACTERS:
        raise CallerInputError(
            f"part {name!r} has {len(text)} characters, more than the {TEXT_CHARACTERS} that a model is asked about",
            reason="text_too_long",
            fix="lower max_bytes of the part, so that devices do not send it",
            part=name,
        )
    return text


def _image_type(data: bytes) -> str:
    return "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
