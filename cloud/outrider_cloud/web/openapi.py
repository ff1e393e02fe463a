"""The API's description, made from its table of routes. Knows OpenAPI 3.1 and nothing else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from outrider_wire.codec import JSON, MSGPACK
from outrider_wire.messages import Receipt

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("reason", "what", "fix", "part")},
            "required": ["reason", "what", "fix", "part"],
        }
    },
}

_REF = "#/components/schemas/{name}"
_SCHEMES = {"token": {"type": "http", "scheme": "bearer"}, "certificate": {"type": "mutualTLS"}}
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "operator": [{"token": []}],
    "device": [{"token": []}, {"certificate": []}],
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
    def takes(self) -> type | None: ...
    @property
    def gives(self) -> type | str: ...
    @property
    def statuses(self) -> Mapping[int, str]: ...
    @property
    def query(self) -> Mapping[str, int]: ...
    @property
    def who(self) -> str: ...


def document(routes: Sequence[Described]) -> dict[str, Any]:
    """The OpenAPI document of ``routes``."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    messages = {kind for route in routes for kind in (route.takes, route.gives, Receipt) if isinstance(kind, type)}
    _, schemas = msgspec.json.schema_components(sorted(messages, key=lambda kind: kind.__name__), ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Outrider cloud", "version": "1"},
        "components": {"securitySchemes": _SCHEMES, "schemas": schemas},
        "paths": paths,
    }


def _operation(route: Described) -> dict[str, Any]:
    error = {"description": "What is wrong, and the way out", "content": {"application/json": {"schema": _ERROR}}}
    operation: dict[str, Any] = {
        "summary": route.what,
        "operationId": f"{route.method.lower()}{re.sub('[^a-z0-9]+', '_', route.path)}",
        "responses": {
            str(route.answers): {"description": route.what} | _content(route.gives),
            **{
                str(status): (error | {"description": what})
                if status >= 400
                else {"description": what} | _content(Receipt if status == 202 else route.gives)
                for status, what in route.statuses.items()
            },
            "default": error,
        },
        "security": _SECURITY[route.who],
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": most}}
        for name, most in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {"required": True} | _content(route.takes)
    elif route.body:
        operation["requestBody"] = {"required": True, "content": {route.body: {"schema": {}}}}
    return operation


def _content(kind: type | str) -> dict[str, Any]:
    """The content of a message, in both codings; of a media type; or nothing."""
    if isinstance(kind, str):
        return {"content": {kind: {"schema": {}}}} if kind else {}
    schema = {"$ref": _REF.format(name=kind.__name__)}
    return {"content": {coding: {"schema": schema} for coding in (JSON, MSGPACK)}}
