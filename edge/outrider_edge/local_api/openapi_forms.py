"""The pieces of an OpenAPI 3.1 document, and what each failing status means here. Knows no route."""

from collections.abc import Sequence
from typing import Any

import msgspec

from outrider_edge.local_api.views import ErrorReply

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
FAILURES = {
    400: "the input or a wish is not what it should be",
    403: "a web page may not ask",
    404: "there is no such task or input",
    408: "its body was not here within a minute",
    409: "a rule says no",
    413: "it is too large",
    415: "it is of a type that is not read",
    500: "the model on this device failed",
    503: "the device lacks something",
}


def operation(
    summary: str,
    replies: Json,
    parameters: list[Json] | None = None,
    *,
    fails: Sequence[int] = (),
    told: type[msgspec.Struct] = ErrorReply,
) -> Json:
    """One operation; ``fails`` are its statuses of errors, whose body is ``told``. 403 is anywhere: a web page may ask nothing."""
    failures = {str(status): reply(FAILURES[status], json_of(told)) for status in sorted(fails)}
    failures["403"] = reply(FAILURES[403], json_of(ErrorReply))
    described: Json = {"summary": summary, "responses": {**replies, **failures}}
    return {**described, "parameters": parameters} if parameters else described


def parameter(name: str, place: str, schema: Json, description: str) -> Json:
    """A parameter; in a path it is required."""
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


def reply(description: str, content: Json) -> Json:
    """A reply and its content by media type."""
    return {"description": description, "content": content}


def ref(struct: type[msgspec.Struct]) -> Json:
    """A reference to a struct's schema."""
    return {"$ref": REF.format(name=struct.__name__)}


def json_of(struct: type[msgspec.Struct]) -> Json:
    """Content: a struct as JSON."""
    return {"application/json": {"schema": ref(struct)}}


def listed(key: str, struct: type[msgspec.Struct]) -> Json:
    """Content: an object whose one key holds a list of structs."""
    items = {"type": "array", "items": ref(struct)}
    return {"application/json": {"schema": {"type": "object", "properties": {key: items}, "required": [key]}}}
