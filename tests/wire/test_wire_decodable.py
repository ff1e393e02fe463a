"""No thread decodes a type whose fields another is only just reading."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("wire", "edge", "export", "cloud", "tools")
RACE = """
import sys, threading
import msgspec
from outrider_wire.decodable import decodable

sys.setswitchinterval(1e-6)
name = decodable if sys.argv[1] == "decodable" else lambda kind: kind
for number in range(400):
    inner = msgspec.defstruct(f"Inner{number}", [(f"x{k}", int, 0) for k in range(8)])
    fields = [(f"y{k}", list[int], msgspec.field(default_factory=list)) for k in range(8)]
    outer = msgspec.defstruct(f"Outer{number}", [("a", inner, None), *fields])
    gate = threading.Barrier(4)

    def decode() -> None:
        gate.wait()
        msgspec.json.decode(b'{"a": {"x1": 3}, "y2": [1, 2]}', type=name(outer))

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def race(how: str) -> int:
    return subprocess.run([sys.executable, "-c", RACE, how], capture_output=True, timeout=100, check=False).returncode


def test_four_threads_decode_a_type_for_the_first_time_at_once() -> None:
    assert race("decodable") == 0


@pytest.mark.skipif(
    not version("msgspec").startswith("0.22."), reason="seen with 0.22; others may read fields under a lock"
)
def test_by_the_type_alone_the_process_dies() -> None:
    assert any(race("bare") < 0 for _ in range(3)), (
        "msgspec reads fields under a lock of its own now: `decodable` may go"
    )


def test_every_decoding_names_its_type_so() -> None:
    bare = []
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            bare += [f"{file}:{call.lineno}" for call in calls(file) if is_bare(call)]
    assert bare == []


def calls(file: Path) -> list[ast.Call]:
    """Calls of msgspec's functions that decode to a type."""
    found = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [call for call in found if ast.unparse(call.func).startswith("msgspec.")]


def is_bare(call: ast.Call) -> bool:
    """Whether it names a type, and not by way of `decodable`."""
    name = ast.unparse(call.func).rpartition(".")[2]
    types = [word.value for word in call.keywords if word.arg == "type"]
    if name == "convert":
        types += call.args[1:2]
    elif name != "decode":
        return False
    return any(not (isinstance(kind, ast.Call) and ast.unparse(kind.func) == "decodable") for kind in types)
