"""What is said in the Open Inference Protocol v2 (REST), with Triton's binary tensor extension. Pure shapes, no rules.

Source: https://github.com/kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``; the extension:
https://github.com/triton-inference-server/server, ``docs/protocol/extension_binary_data.md``.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from outrider_wire.limits import PARTS

Datatype = Literal["BYTES", "FP32", "BOOL"]
Side = Annotated[int, Meta(ge=0)]


class InferParameters(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A caller's wishes: those of ``POST /v1/tasks/{task}/answers``."""

    wait: Literal["final", "provisional"] = "final"
    answer_within_ms: int | None = None
    timeout: int | None = None
    """Microseconds: ``answer_within_ms`` as Triton's clients say it."""
    group: str = ""
    insist: bool = False
    binary_data_output: bool = False
    """All outputs as bytes after the JSON."""


class InputParameters(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How one input tensor is coded."""

    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    """So many bytes of what follows the JSON are its."""
    content_type: Literal["str", "base64"] = "str"
    """What the strings of a BYTES tensor in JSON are (the convention of MLServer)."""


class OutputParameters(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How one output tensor is to be coded."""

    binary_data: bool | None = None


class RequestInput(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One input tensor."""

    name: str
    datatype: str
    shape: Annotated[list[Side], Meta(min_length=1, max_length=8)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None
    """Flat or nested, in row-major order; None: it follows the JSON."""


class RequestOutput(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One output tensor that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One request: a batch of inputs of one task."""

    inputs: Annotated[list[RequestInput], Meta(min_length=1, max_length=PARTS)]
    id: str = ""
    """The caller's own; the reply repeats it."""
    parameters: InferParameters = InferParameters()
    outputs: Annotated[list[RequestOutput], Meta(max_length=64)] = []
    """Empty: all of them."""


class ReplyTensor(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One output tensor."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, int] = {}
    """``binary_data_size``, where its bytes follow the JSON."""
    data: list[Any] | None = None
    """Flat, in row-major order."""


class InferReply(Struct, kw_only=True, frozen=True):
    """The outputs of a request."""

    model_name: str
    model_version: str
    id: str
    outputs: list[ReplyTensor]


class ServerView(Struct, kw_only=True, frozen=True):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class LiveReply(Struct, kw_only=True, frozen=True):
    """Whether the process serves."""

    live: bool


class ReadyReply(Struct, kw_only=True, frozen=True):
    """Whether inputs are answered."""

    ready: bool


class ModelReady(Struct, kw_only=True, frozen=True):
    """Whether inputs of one task are answered."""

    name: str
    ready: bool


class TensorView(Struct, kw_only=True, frozen=True):
    """A tensor that a model takes or gives; −1 stands for any side."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelView(Struct, kw_only=True, frozen=True):
    """One task, as a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorView]
    outputs: list[TensorView]


class ErrorText(Struct, kw_only=True, frozen=True):
    """What was wrong, as this protocol says it, and the stable code beside it."""

    error: str
    reason: str = ""
