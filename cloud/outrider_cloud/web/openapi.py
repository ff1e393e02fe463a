"""The API's description, made from its table of routes and the structs that they name. Knows OpenAPI 3.1 and nothing else."""

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol

import msgspec

from outrider_cloud.web.route import JSON_TYPE, Shape
from outrider_cloud.web.shapes import ErrorReply
from outrider_wire.codec import JSON, MSGPACK
from outrider_wire.names import Digest, Name

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
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
    409: "A rule says no, or something it refers to is not here",
    410: "Its time ran out",
    411: "Its length is not said",
    413: "It is too large",
    415: "It is of another media type",
    416: "There is no such range",
    422: "It can never be taken",
    429: "Too much at once; see Retry-After",
    503: "Something else does not answer, or there is too much to do; see Retry-After",
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
    def also(self) -> Mapping[int, Shape | str | None]: ...
    @property
    def messages(self) -> bool: ...
    @property
    def query(self) -> Mapping[str, Json]: ...
    @property
    def fails(self) -> Sequence[int]: ...


def document(routes: Sequence[Described]) -> Json:
    """The OpenAPI document of ``routes``."""
    shapes = [shape for route in routes for shape in (route.takes, route.gives, *route.also.values())]
    named = [shape for shape in shapes if isinstance(shape, type)]
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
        content = _content(route.takes, route.messages) if route.takes else {route.body: {"schema": {}}}
        operation["requestBody"] = {"required": True, "content": content}
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
    replies: Json = {}
    for status, gives in {route.answers: route.gives, **route.also}.items():
        replies[str(status)] = _reply(route.what, None if silent else gives, route.messages)
    for status in sorted(failures):
        shape = route.gives if route.who == "anyone" else ErrorReply
        replies[str(status)] = _reply(_FAILURES[status], None if silent else shape)
    return replies


def _reply(description: str, gives: Shape | str | None, messages: bool = False) -> Json:
    return {"description": description} | ({} if gives is None else {"content": _content(gives, messages)})


def _content(kind: Shape | str, messages: bool) -> Json:
    """The content of a media type, or of a shape in its codings."""
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"}}}
    return {coding: {"schema": _ref(kind)} for coding in ((JSON, MSGPACK) if messages else (JSON_TYPE,))}


def _parameter(name: str, place: str, schema: Json) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _ref(shape: Shape) -> Json:
    return {"$ref": _REF.format(name=shape.__name__)}


def _version() -> str:
    try:
        return metadata.version("outrider")
    except metadata.PackageNotFoundError:
        return "0"
