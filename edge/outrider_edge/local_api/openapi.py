"""The local API's OpenAPI 3.1 document, with its schemas generated from the very structs that are sent. Serves nothing."""

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

import msgspec

from outrider_edge.journey.asked import MAX_GROUP, MAX_WAIT_MS
from outrider_edge.local_api.outbox_routes import Dropped, PageView, Retried
from outrider_edge.local_api.submission import Submission
from outrider_edge.local_api.views import ErrorReply, LiveView, ReadyView, StatusView, TaskView
from outrider_edge.outbox.looking import MOST, EntryDetail
from outrider_wire.report import Account, AnswerReport

_REF = "#/components/schemas/{name}"
_STRUCTS = (
    AnswerReport,
    Account,
    Submission,
    TaskView,
    StatusView,
    LiveView,
    ReadyView,
    ErrorReply,
    PageView,
    EntryDetail,
    Retried,
    Dropped,
)

Json = dict[str, Any]


@cache
def document() -> Json:
    """The whole document, as plain data."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Outrider agent",
            "version": agent_version(),
            "description": "The local API of one device: an input in, an answer out, in time.",
        },
        "paths": _paths(),
        "components": {"schemas": schemas},
    }


@cache
def agent_version() -> str:
    """The installed version of Outrider; ``0`` where it runs from a bare folder."""
    try:
        return metadata.version("outrider")
    except metadata.PackageNotFoundError:
        return "0"


def _paths() -> Json:
    paths: Json = {}
    for path, method, operation in [*_operations(), *_outbox_operations()]:
        paths.setdefault(path, {})[method] = operation
    return paths


def _outbox_operations() -> list[tuple[str, str, Json]]:
    """Of `outrider_edge.local_api.outbox_routes` and `outrider_edge.local_api.ended_route`."""
    text: Json = {"type": "string"}
    one = _parameter("id", "path", text, "the input's id")
    narrowed = [
        _parameter("after", "query", {"type": "integer", "minimum": 0}, "the page begins after this number"),
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MOST}, "entries on a page"),
        _parameter("task", "query", text, "of one task only"),
        _parameter("delivery", "query", {"enum": ["queued", "offered", "received"]}, "in this state only"),
        _parameter("durability", "query", {"enum": ["disk", "memory"], "default": "disk"}, "where it is kept"),
    ]
    streamed = [
        _parameter(
            "late", "query", {"type": "boolean", "default": False}, "only answers that came after their deadline"
        ),
        _parameter("task", "query", text, "of one task only"),
        _parameter(
            "after", "query", {"type": "string", "pattern": r"^\d+\.\d+$"}, "the id of the last event that you have"
        ),
    ]
    due, gone = {"200": _reply("how many", _json(Retried))}, {"200": _reply("it is", _json(Dropped))}
    page, whole = {"200": _reply("a page", _json(PageView))}, {"200": _reply("it", _json(EntryDetail))}
    shut = (503,)  # the outbox's file cannot be read now
    return [
        (
            "/v1/answers/events",
            "get",
            _operation("Final reports as inputs end", {"200": _EVENTS}, streamed, fails=(400,)),
        ),
        ("/v1/outbox", "get", _operation("What waits", page, narrowed, fails=(400, *shut))),
        ("/v1/outbox/{id}", "get", _operation("One entry, whole", whole, [one], fails=(404, *shut))),
        ("/v1/outbox/{id}", "delete", _operation("Give one up", gone, [one], fails=(404, *shut))),
        ("/v1/outbox/{id}/retry", "post", _operation("Offer one now", due, [one], fails=(404, *shut))),
        ("/v1/outbox/retry", "post", _operation("Offer all now", due, fails=shut)),
    ]


def _operations() -> list[tuple[str, str, Json]]:
    report, account = _json(AnswerReport), _json(Account)
    given = {"200": _reply("the answer", report), "202": _reply("the device's own answer so far", report)}
    input_id = _parameter("id", "path", {"type": "string"}, "the input's id")
    one_task = _parameter("task", "query", {"type": "string"}, "of one task only")
    ready = {"200": _reply("yes", _json(ReadyView)), "503": _reply("stopping", _json(ReadyView))}
    return [
        ("/v1/tasks/{task}/answers", "post", _submit(given)),
        (
            "/v1/answers/{id}",
            "get",
            _operation("An input's report as it stands", given, [input_id, _WAIT_MS], fails=(400, 404)),
        ),
        (
            "/v1/answers/{id}/events",
            "get",
            _operation("provisional, then final", {"200": _EVENTS}, [input_id], fails=(404,)),
        ),
        ("/v1/tasks", "get", _operation("Tasks served here", {"200": _reply("tasks", _listed("tasks", TaskView))})),
        (
            "/v1/account",
            "get",
            _operation("Inputs by state", {"200": _reply("it adds up", account)}, [one_task], fails=(404,)),
        ),
        ("/v1/status", "get", _operation("How the device fares", {"200": _reply("status", _json(StatusView))})),
        ("/health/live", "get", _operation("The process serves", {"200": _reply("it does", _json(LiveView))})),
        ("/health/ready", "get", _operation("Models are loaded", ready)),
        ("/metrics", "get", _operation("Prometheus text", {"200": _TEXT})),
        ("/openapi.json", "get", _operation("This document", {"200": _reply("OpenAPI 3.1", _OBJECT)})),
    ]


def _submit(given: Json) -> Json:
    number: Json = {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS}
    parameters = [
        _parameter("task", "path", {"type": "string"}, "name of the task"),
        _parameter("wait", "query", {"enum": ["final", "provisional"], "default": "final"}, "which answer to wait for"),
        _parameter("answer_within_ms", "query", number, "the deadline; by default the task's"),
        _parameter("group", "query", {"type": "string", "maxLength": MAX_GROUP}, "what the input is correlated with"),
        _parameter("insist", "query", {"enum": ["0", "1"], "default": "0"}, "ask the large model in any case"),
    ]
    form = {"schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}}
    body = {
        "required": True,
        "content": {"multipart/form-data": form, "application/json": {"schema": _ref(Submission)}},
    }
    operation = _operation("Answer one input", given, parameters, fails=tuple(_FAILURES))
    return {**operation, "requestBody": body}


def _operation(summary: str, replies: Json, parameters: list[Json] | None = None, *, fails: Sequence[int] = ()) -> Json:
    """403 is anywhere: a web page may ask nothing."""
    failures = {str(status): _reply(_FAILURES[status], _json(ErrorReply)) for status in sorted({403, *fails})}
    operation: Json = {"summary": summary, "responses": {**replies, **failures}}
    return {**operation, "parameters": parameters} if parameters else operation


def _parameter(name: str, place: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


def _reply(description: str, content: Json) -> Json:
    return {"description": description, "content": content}


def _ref(struct: type[msgspec.Struct]) -> Json:
    return {"$ref": _REF.format(name=struct.__name__)}


def _json(struct: type[msgspec.Struct]) -> Json:
    return {"application/json": {"schema": _ref(struct)}}


def _listed(key: str, struct: type[msgspec.Struct]) -> Json:
    listed = {"type": "array", "items": _ref(struct)}
    return {"application/json": {"schema": {"type": "object", "properties": {key: listed}, "required": [key]}}}


_FAILURES = {
    400: "the input or a wish is not what it should be",
    403: "a web page may not ask",
    404: "there is no such task or input",
    409: "a rule says no",
    413: "it is too large",
    415: "it is of a type that is not read",
    500: "the model on this device failed",
    503: "the device lacks something",
}
_WAIT_MS = _parameter(
    "wait_ms",
    "query",
    {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS},
    "how long to wait for the final answer",
)
_EVENT: Json = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
"""One of a stream's events; its ``data`` is an `AnswerReport` as JSON."""
_EVENTS = _reply("server-sent events", {"text/event-stream": {"schema": _EVENT}})
_TEXT = _reply("metrics", {"text/plain": {"schema": {"type": "string"}}})
_OBJECT: Json = {"application/json": {"schema": {"type": "object"}}}
