"""The OpenAPI operations of the routes under ``/v2``. Serves nothing."""

from outrider_edge.local_api.kserve.messages import (
    ErrorText,
    InferReply,
    InferRequest,
    LiveReply,
    ModelReady,
    ModelView,
    ReadyReply,
    ServerView,
)
from outrider_edge.local_api.kserve.tensors import HEADER
from outrider_edge.local_api.openapi_forms import FAILURES, Json, json_of, operation, parameter, ref, reply

STRUCTS = (ServerView, LiveReply, ReadyReply, ModelView, ModelReady, InferRequest, InferReply, ErrorText)
"""Whose schemas these operations refer to."""
_TEXT: Json = {"type": "string"}
_BYTES: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_MODEL = parameter("model", "path", _TEXT, "name of the task")
_VERSION = parameter("version", "path", _TEXT, "version of the model in use")
_HEADER = parameter(HEADER, "header", {"type": "integer", "minimum": 0}, "bytes of JSON, where tensors follow it")


def kserve_operations() -> list[tuple[str, str, Json]]:
    """Path, method, operation."""
    ready = {
        "200": reply("yes", json_of(ReadyReply)),
        "503": reply("stopping", json_of(ReadyReply)),
    }
    described = [
        ("/v2", "get", operation("What serves", {"200": reply("this", json_of(ServerView))})),
        ("/v2/health/live", "get", operation("The process serves", {"200": reply("it does", json_of(LiveReply))})),
        ("/v2/health/ready", "get", operation("Models are loaded", ready)),
    ]
    for base, named in (
        ("/v2/models/{model}", [_MODEL]),
        ("/v2/models/{model}/versions/{version}", [_MODEL, _VERSION]),
    ):
        described += _of_model(base, named)
    return described


def _of_model(base: str, named: list[Json]) -> list[tuple[str, str, Json]]:
    given, ready = {"200": reply("it", json_of(ModelView))}, {"200": reply("yes", json_of(ModelReady))}
    ready["503"] = reply("stopping", json_of(ModelReady))
    answered = {"200": reply("the outputs", {**json_of(InferReply), **_BYTES})}
    body: Json = {
        "required": True,
        "content": {"application/json": {"schema": ref(InferRequest)}, **_BYTES},
    }
    infer = operation("Answer a batch of inputs", answered, [*named, _HEADER], fails=tuple(FAILURES), told=ErrorText)
    return [
        (base, "get", operation("A task as a model", given, named, fails=(404,), told=ErrorText)),
        (f"{base}/ready", "get", operation("Its model is loaded", ready, named, fails=(404,), told=ErrorText)),
        (f"{base}/infer", "post", {**infer, "requestBody": body}),
    ]
