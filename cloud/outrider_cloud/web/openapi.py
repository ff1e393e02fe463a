"""The API's description, made from its table of routes and the structs that they name. Knows OpenAPI 3.1 and nothing else."""

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol

import msgspec

from outrider_cloud.web.shapes import ErrorReply
from outrider_wire.names import Digest, Name

Json = dict[str, Any]
Shape = type[msgspec.Struct]

_REF = "#/components/schemas/{name}"
_JSON_TYPE = "application/json"
_SCHEMES = {"token": {"type": "http", "scheme": "bearer"}, "certificate": {"type": "mutualTLS"}}
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "operator": [{"token": []}],
    "device": [{"token": []}, {"certificate": []}],
}
_NAMES: Mapping[str, Any] = {"sha256": Digest, "digest": Digest, "task": Name, "device": Name}
"""What a name in a path must be; any other is a text."""
_FAILURES = {
    400: "What was sent is not what it should be",
    401: "The token is missing or wrong",
    404: "There is no such thing here",
    409: "A rule says no",
    413: "It is too large",
    422: "The bundle is damaged, unsafe or of another task",
    503: "Something else does not answer",
}


class Described(Protocol):
    """What a route says of itself."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def answers(self) -> int: ...
    @property
    def body(self) -> str: ...
    @property
    def who(self) -> str: ...
    @property
    def takes(self) -> Shape | None: ...
    @property
    def gives(self) -> Shape | str | None: ...
    @property
    def query(self) -> Mapping[str, Json]: ...
    @property
    def fails(self) -> Sequence[int]: ...


def document(routes: Sequence[Described]) -> Json:
    """The OpenAPI document of ``routes``."""
    named = [shape for route in routes for shape in (route.takes, route.gives) if isinstance(shape, type)]
    _, schemas = msgspec.json.schema_components(dict.fromkeys([ErrorReply, *named]), ref_template=_REF)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Outrider cloud",
            "version": _version(),
            "description": "The escalation endpoint of a fleet.",
        },
        "components": {"securitySchemes": _SCHEMES, "schemas": schemas},
        "paths": paths,
    }


def _operation(route: Described) -> Json:
    names = re.findall(r"{(\w+)}", route.path)
    operation: Json = {
        "summary": route.what,
        "operationId": f"{route.method.lower()}{re.sub('[^a-z0-9]+', '_', route.path)}",
        "responses": _replies(route, bool(names)),
        "security": _SECURITY[route.who],
    }
    parameters = [_parameter(name, "path", msgspec.json.schema(_NAMES.get(name, str))) for name in names]
    parameters += [_parameter(name, "query", schema) for name, schema in route.query.items()]
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        schema = _ref(route.takes) if route.takes else {}
        operation["requestBody"] = {"required": True, "content": {route.body: {"schema": schema}}}
    return operation


def _replies(route: Described, named: bool) -> Json:
    failures = set(route.fails)
    if route.who != "anyone":
        failures.add(401)
    if named or route.query or route.body:
        failures.add(400)
    if route.body:
        failures.add(413)
    silent = route.method == "HEAD"  # its replies have no body (RFC 9110, §9.3.2)
    replies: Json = {str(route.answers): _reply(route.what, None if silent else route.gives)}
    for status in sorted(failures):
        shape = route.gives if route.who == "anyone" else ErrorReply
        replies[str(status)] = _reply(_FAILURES[status], None if silent else shape)
    return replies


def _reply(description: str, gives: Shape | str | None) -> Json:
    if gives is None:
        return {"description": description}
    content = (
        {gives: {"schema": {"type": "string"}}} if isinstance(gives, str) else {_JSON_TYPE: {"schema": _ref(gives)}}
    )
    return {"description": description, "content": content}


def _parameter(name: str, place: str, schema: Json) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _ref(shape: Shape) -> Json:
    return {"$ref": _REF.format(name=shape.__name__)}


def _version() -> str:
    try:
        return metadata.version("outrider")
    except metadata.PackageNotFoundError:
        return "0"
