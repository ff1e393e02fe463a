"""Every code that an update can end or wait with has a row that says what to do, and no row is of a code that nothing says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import outrider_edge.updates
import outrider_wire.fitness
from outrider_wire.reason_rows_updates import UPDATE_REASONS, update_reasons
from outrider_wire.reasons import TABLE

ROOM = Path(outrider_edge.updates.__file__).parent
GIVEN = {"_refusal": 0, "Withdrawn": 2, "Unfit": 1, "Tripped": 1, "_back": 2, "_refuse": 2, "_say": 1, "say": 1}
"""Functions that are given a code, and as which argument."""


def said() -> Iterator[str]:
    for path in (*sorted(ROOM.glob("*.py")), Path(outrider_wire.fitness.__file__)):
        for node in ast.walk(ast.parse(path.read_text())):
            yield from _told(node)


def _told(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = GIVEN.get(name)
        found = [node.args[place]] if place is not None and len(node.args) > place else []
        errors = (name.endswith("Error") or name == "Misfit") and name not in ("PeerError", "BundleDamagedError")
        found += [kw.value for kw in node.keywords if kw.arg == "code" or (kw.arg == "reason" and errors)]
        for each in found:
            yield from (part.value for part in ast.walk(each) if isinstance(part, ast.Constant) and part.value)
    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "code" and node.value is not None:
        yield from (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant) and part.value)


ELSEWHERE = {"unknown_task", "manifest_too_large", "wrong_labels", "identity_unusable"}
"""Codes that every command and bundle knows."""


def test_every_code_of_an_update_has_a_row_and_no_row_is_idle() -> None:
    codes = {code for code in said() if isinstance(code, str)}
    assert not codes - UPDATE_REASONS.keys() - ELSEWHERE - TABLE.keys()
    assert not UPDATE_REASONS.keys() - codes
    assert len(codes) > 50


def test_the_table_can_be_printed() -> None:
    assert "| `crash_loop` |" in update_reasons()
