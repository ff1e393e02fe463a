"""The API's description, made from its table of routes. Knows OpenAPI 3.1 and nothing else."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

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
    def who(self) -> str: ...


def document(routes: Sequence[Described]) -> dict[str, Any]:
    """The OpenAPI document of ``routes``."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Outrider cloud", "version": "1"},
        "components": {"securitySchemes": _SCHEMES},
        "paths": paths,
    }


def _operation(route: Described) -> dict[str, Any]:
    error = {"description": "What is wrong, and the way out", "content": {"application/json": {"schema": _ERROR}}}
    operation: dict[str, Any] = {
        "summary": route.what,
        "operationId": f"{route.method.lower()}{re.sub('[^a-z0-9]+', '_', route.path)}",
        "responses": {str(route.answers): {"description": route.what}, "default": error},
        "security": _SECURITY[route.who],
    }
    if names := re.findall(r"{(\w+)}", route.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.body:
        operation["requestBody"] = {"required": True, "content": {route.body: {"schema": {}}}}
    return operation
