"""Our protocols of TensorRT's Python API against its published stubs: what is called there, and with how many arguments.

The stubs (PyPI ``tensorrt-stubs`` 10.13) do not parse in five places, so that no type checker reads them; these lines are left out, and
what remains is read as a syntax tree. Types are not compared. Where they lie is named by ``OUTRIDER_TEST_TENSORRT_STUBS`` (a folder for
``pip install --target``).
"""

import ast
import inspect
import os
from pathlib import Path

import pytest
from absent import skip_without

from outrider_engine.native import library

OURS: dict[str, type] = {
    "ITensor": library.Tensor,
    "INetworkDefinition": library.Network,
    "IOptimizationProfile": library.Profile,
    "IBuilderConfig": library.Config,
    "Builder": library.Builder,
    "OnnxParser": library.Parser,
    "IExecutionContext": library.Context,
    "ICudaEngine": library.Engine,
    "Runtime": library.Runtime,
}
"""The stubs' class → ours."""
ADAPTERS = {
    "IBuilderConfig": {"create_timing_cache": 1, "set_timing_cache": 2, "get_timing_cache": 0},
    "ITimingCache": {"serialize": 0},
    "ILogger": {"log": 2},
    "IProgressMonitor": {"phase_start": 3, "step_complete": 2, "phase_finish": 1},
}
"""What is called without a protocol, by the adapter of ``tensorrt``; and what its logger and its monitor answer. Method → arguments."""
BROKEN = 5


def tree_of(text: str) -> tuple[ast.Module, int]:
    """The stubs as a tree, and how many definitions were left out for it."""
    lines, broken = text.splitlines(), 0
    while True:
        try:
            return ast.parse("\n".join(lines)), broken
        except SyntaxError as error:
            assert error.lineno is not None
            assert broken < BROKEN, f"line {error.lineno} does not parse either"
            line = lines[error.lineno - 1]
            indent = line[: len(line) - len(line.lstrip())]
            lines[error.lineno - 1] = f"{indent}def left_out_{error.lineno}(self) -> None:"
            broken += 1


def takes(node: ast.FunctionDef, count: int) -> bool:
    """Whether it may be called with so many positional arguments besides ``self``."""
    args = [*node.args.posonlyargs, *node.args.args][1:]
    least = len(args) - len(node.args.defaults)
    return least <= count <= len(args) or node.args.vararg is not None


def called(protocol: type) -> dict[str, int | None]:
    """Method → how many arguments; None: a property."""
    found: dict[str, int | None] = {}
    for name, value in vars(protocol).items():
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            found[name] = None
        elif inspect.isfunction(value):
            parameters = list(inspect.signature(value).parameters.values())[1:]
            found[name] = sum(each.default is inspect.Parameter.empty for each in parameters)
    return found


@pytest.mark.slow
def test_what_we_call_is_in_the_published_stubs_with_as_many_arguments() -> None:
    root = os.environ.get("OUTRIDER_TEST_TENSORRT_STUBS", "")
    stubs = Path(root) / "tensorrt_bindings" / "tensorrt.pyi"
    if not root or not stubs.is_file():
        skip_without(
            "tensorrt-stubs", "pip install --target DIR --no-deps tensorrt-stubs, and OUTRIDER_TEST_TENSORRT_STUBS=DIR"
        )
    tree, _ = tree_of(stubs.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    checked = 0
    wanted = [(name, called(protocol)) for name, protocol in OURS.items()]
    for name, methods in [*wanted, *((name, dict(extra)) for name, extra in ADAPTERS.items())]:
        body = classes[name].body
        defined: dict[str, list[ast.FunctionDef]] = {}
        for node in body:
            if isinstance(node, ast.FunctionDef):
                defined.setdefault(node.name, []).append(node)
        plain = {
            node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        for method, count in methods.items():
            assert method in defined or (count is None and method in plain), f"{name} has no {method}"
            if count is not None:
                assert any(takes(node, count) for node in defined[method]), (
                    f"{name}.{method} takes no {count} arguments"
                )
            checked += 1
    assert checked > 30
