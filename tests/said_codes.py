"""The reason codes that a module can say, read from its syntax. Imports no module of the product.

A code is a string in one of a few places: the ``reason`` of an error or a refusal, an argument of a function that makes one, what
is assigned to a name that holds a code, what a function returns that tells one, or a member of a named `Literal`. A ``reason``
that comes from anywhere else is an error here, so that none can be said unseen.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

AT_START = frozenset({"OperatorConfigError", "BundleMismatchError"})
"""Errors that keep a process from starting, or a model from being used: no escalation meets them."""
_MADE_BY = {
    "_refused": 0,
    "_PutOffError": 0,
    "_LostError": 0,
    "Shed": 0,
    "refuse": 1,
    "_too_much": 1,
    "_odd": 1,
    "outcome": 1,
}
"""Functions that are given a code, and from which argument on."""
_HELD_IN = frozenset({"reason", "failed", "code", "MEMORY", "_HTTP_REASON", "_TUF_REASONS"})
"""Names and attributes that a code is assigned to."""
_TOLD_BY = frozenset({"kept_back", "_reason_of", "_fate"})
"""Functions that return a code, or a pair that begins with one."""
_LISTED_IN = frozenset({"ignored"})
"""Functions in which every string is a code."""
_MEMBERS = frozenset({"Why"})
"""Aliases of a `Literal` of codes."""
_PASSED_ON = frozenset({"reason", "failed"})
"""A ``reason`` that was made elsewhere."""
_CODE = re.compile(r"[a-z][a-z0-9_]{1,63}")


def codes_of(path: Path) -> set[str]:
    """Every code that a module says.

    Raises:
        ValueError: it says one that cannot be read from its syntax.
    """
    return {code for node in ast.walk(ast.parse(path.read_text())) for code in _said(node) if _CODE.fullmatch(code)}


def _said(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call():
            yield from _called(node)
        case ast.Assign(targets=[ast.Tuple(elts=[first, *_])], value=ast.Tuple(elts=[value, *_])):
            yield from _strings(value) if _name(first) in _HELD_IN else ()
        case ast.Assign(targets=[target]):
            yield from _strings(node.value) if _name(target) in _HELD_IN | _MEMBERS else ()
        case ast.FunctionDef(name=name) if name in _TOLD_BY:
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and each.value is not None:
                    yield from _strings(each.value.elts[0] if isinstance(each.value, ast.Tuple) else each.value)
        case ast.FunctionDef(name=name) if name in _LISTED_IN:
            for statement in node.body[1:]:
                yield from _strings(statement)


def _called(node: ast.Call) -> Iterator[str]:
    name = _name(node.func)
    if name in AT_START:
        return
    if name == "converted":  # cloud/outrider_cloud/web/route.py: a name in a path
        yield from (f"invalid_{what}" for what in _strings(node.args[2]))
    if name in _MADE_BY:
        for argument in node.args[_MADE_BY[name] :]:
            yield from _strings(argument)
    for keyword in node.keywords:
        if keyword.arg == "reason":
            found = [*_strings(keyword.value)]
            if not found and _name(keyword.value) not in _PASSED_ON:
                raise ValueError(f"line {node.lineno}: what is the code in {ast.unparse(keyword.value)}?")
            yield from found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _strings(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
