"""The local API's OpenAPI 3.1 document, with its schemas generated from the very structs that are sent. Serves nothing."""

from functools import cache
from importlib import metadata

import msgspec

from outrider_edge.journey.asked import MAX_GROUP, MAX_WAIT_MS
from outrider_edge.local_api.kserve.openapi import STRUCTS as KSERVE_STRUCTS
from outrider_edge.local_api.kserve.openapi import kserve_operations
from outrider_edge.local_api.openapi_forms import FAILURES, REF, Json, json_of, listed, operation, parameter, ref, reply
from outrider_edge.local_api.outbox_routes import Dropped, PageView, Retried
from outrider_edge.local_api.submission import Submission
from outrider_edge.local_api.updates_routes import InstallWish, Kept, PinWish, Returned, RollbackWish
from outrider_edge.local_api.views import ErrorReply, LiveView, ReadyView, StatusView, TaskView
from outrider_edge.outbox.looking import MOST, EntryDetail
from outrider_edge.sources.events import SourceEvent
from outrider_edge.updates.hands import Planned, UpdatesView
from outrider_wire.report import Account, AnswerReport

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
    SourceEvent,
    UpdatesView,
    Planned,
    Kept,
    Returned,
    InstallWish,
    PinWish,
    RollbackWish,
    *KSERVE_STRUCTS,
)


@cache
def document() -> Json:
    """The whole document, as plain data."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=REF)
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
    for path, method, described in [*_operations(), *_outbox_operations(), *_update_operations(), *kserve_operations()]:
        paths.setdefault(path, {})[method] = described
    return paths


def _outbox_operations() -> list[tuple[str, str, Json]]:
    """Of `outrider_edge.local_api.outbox_routes`, `outrider_edge.local_api.ended_route` and `outrider_edge.local_api.events_route`."""
    text: Json = {"type": "string"}
    one = parameter("id", "path", text, "the input's id")
    narrowed = [
        parameter("after", "query", {"type": "integer", "minimum": 0}, "the page begins after this number"),
        parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MOST}, "entries on a page"),
        parameter("task", "query", text, "of one task only"),
        parameter("delivery", "query", {"enum": ["queued", "offered", "received"]}, "in this state only"),
        parameter("durability", "query", {"enum": ["disk", "memory"], "default": "disk"}, "where it is kept"),
    ]
    streamed = [
        parameter(
            "late", "query", {"type": "boolean", "default": False}, "only answers that came after their deadline"
        ),
        parameter("task", "query", text, "of one task only"),
        parameter(
            "after", "query", {"type": "string", "pattern": r"^\d+\.\d+$"}, "the id of the last event that you have"
        ),
    ]
    happening = [
        parameter("source", "query", text, "of one source only"),
        parameter("task", "query", text, "of one task only"),
        parameter(
            "after", "query", {"type": "string", "pattern": r"^[0-9a-f]+\.\d+$"}, "the id of the last one you have"
        ),
    ]
    due, gone = {"200": reply("how many", json_of(Retried))}, {"200": reply("it is", json_of(Dropped))}
    page, whole = {"200": reply("a page", json_of(PageView))}, {"200": reply("it", json_of(EntryDetail))}
    shut = (503,)  # the outbox's file cannot be read now
    return [
        (
            "/v1/answers/events",
            "get",
            operation("Final reports as inputs end", {"200": _EVENTS}, streamed, fails=(400,)),
        ),
        (
            "/v1/events",
            "get",
            operation("What happens before the sources", {"200": _HAPPENINGS}, happening, fails=(400,)),
        ),
        ("/v1/outbox", "get", operation("What waits", page, narrowed, fails=(400, *shut))),
        ("/v1/outbox/{id}", "get", operation("One entry, whole", whole, [one], fails=(404, *shut))),
        ("/v1/outbox/{id}", "delete", operation("Give one up", gone, [one], fails=(404, *shut))),
        ("/v1/outbox/{id}/retry", "post", operation("Offer one now", due, [one], fails=(404, *shut))),
        ("/v1/outbox/retry", "post", operation("Offer all now", due, fails=shut)),
    ]


def _update_operations() -> list[tuple[str, str, Json]]:
    """Of `outrider_edge.local_api.updates_routes`."""
    task = [parameter("task", "path", {"type": "string"}, "name of the task")]
    view, planned = {"200": reply("they stand so", json_of(UpdatesView))}, {"200": reply("it is", json_of(Planned))}
    kept, back = {"200": reply("they are kept", json_of(Kept))}, {"200": reply("it returns", json_of(Returned))}
    return [
        ("/v1/updates", "get", operation("How updates stand", view)),
        ("/v1/updates/check", "post", operation("Ask for newer metadata now", view, fails=(409, 503))),
        (
            "/v1/updates/install",
            "post",
            _with_body(operation("Begin what a folder brings", planned, fails=(400, 404, 409, 500, 503)), InstallWish),
        ),
        (
            "/v1/updates/pin",
            "post",
            _with_body(operation("Stay on what runs, or no longer", view, fails=(400, 503)), PinWish),
        ),
        ("/v1/updates/{task}/commit", "post", operation("End a probation well", kept, task, fails=(404, 409))),
        (
            "/v1/updates/{task}/rollback",
            "post",
            _with_body(operation("Return to the release before", back, task, fails=(400, 404, 409)), RollbackWish),
        ),
    ]


def _with_body(described: Json, wish: type[msgspec.Struct]) -> Json:
    return {**described, "requestBody": {"required": True, "content": json_of(wish)}}


def _operations() -> list[tuple[str, str, Json]]:
    report, account = json_of(AnswerReport), json_of(Account)
    given = {"200": reply("the answer", report), "202": reply("the device's own answer so far", report)}
    input_id = parameter("id", "path", {"type": "string"}, "the input's id")
    one_task = parameter("task", "query", {"type": "string"}, "of one task only")
    ready = {"200": reply("yes", json_of(ReadyView)), "503": reply("stopping", json_of(ReadyView))}
    return [
        ("/v1/tasks/{task}/answers", "post", _submit(given)),
        (
            "/v1/answers/{id}",
            "get",
            operation("An input's report as it stands", given, [input_id, _WAIT_MS], fails=(400, 404)),
        ),
        (
            "/v1/answers/{id}/events",
            "get",
            operation("provisional, then final", {"200": _EVENTS}, [input_id], fails=(404,)),
        ),
        ("/v1/tasks", "get", operation("Tasks served here", {"200": reply("tasks", listed("tasks", TaskView))})),
        (
            "/v1/account",
            "get",
            operation("Inputs by state", {"200": reply("it adds up", account)}, [one_task], fails=(404,)),
        ),
        ("/v1/status", "get", operation("How the device fares", {"200": reply("status", json_of(StatusView))})),
        ("/health/live", "get", operation("The process serves", {"200": reply("it does", json_of(LiveView))})),
        ("/health/ready", "get", operation("Models are loaded", ready)),
        ("/metrics", "get", operation("Prometheus text", {"200": _TEXT})),
        ("/docs", "get", operation("This document, for people", {"200": _PAGE})),
        ("/openapi.json", "get", operation("This document", {"200": reply("OpenAPI 3.1", _OBJECT)})),
    ]


def _submit(given: Json) -> Json:
    number: Json = {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS}
    parameters = [
        parameter("task", "path", {"type": "string"}, "name of the task"),
        parameter("wait", "query", {"enum": ["final", "provisional"], "default": "final"}, "which answer to wait for"),
        parameter("answer_within_ms", "query", number, "the deadline; by default the task's"),
        parameter("group", "query", {"type": "string", "maxLength": MAX_GROUP}, "what the input is correlated with"),
        parameter("insist", "query", {"enum": ["0", "1"], "default": "0"}, "ask the large model in any case"),
    ]
    form = {"schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}}
    body = {
        "required": True,
        "content": {"multipart/form-data": form, "application/json": {"schema": ref(Submission)}},
    }
    return {**operation("Answer one input", given, parameters, fails=tuple(FAILURES)), "requestBody": body}


_WAIT_MS = parameter(
    "wait_ms",
    "query",
    {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS},
    "how long to wait for the final answer",
)
_EVENT: Json = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
"""One of a stream's events; its ``data`` is an `AnswerReport` as JSON."""
_EVENTS = reply("server-sent events", {"text/event-stream": {"schema": _EVENT}})
_HAPPENING: Json = {**_EVENT, "description": "`data` is a SourceEvent as JSON"}
_HAPPENINGS = reply("server-sent events new, update, end", {"text/event-stream": {"schema": _HAPPENING}})
_PAGE = reply("a page", {"text/html": {"schema": {"type": "string"}}})
_TEXT = reply("metrics", {"text/plain": {"schema": {"type": "string"}}})
_OBJECT: Json = {"application/json": {"schema": {"type": "object"}}}
