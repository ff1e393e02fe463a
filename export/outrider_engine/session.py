"""ONNX Runtime, set up for a device: one thread, no spinning, no arena, nothing sent home. Knows no bundle.

This is the one module that imports ``onnxruntime``: its official builds report usage to their maker from 1.29 on unless
``ORT_DISABLE_TELEMETRY`` is set before the first import (https://github.com/microsoft/onnxruntime/pull/27379).
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from outrider_engine.walk import TensorFact
from outrider_wire.errors import BundleMismatchError, OperatorSetupError

CPU = "CPUExecutionProvider"
INSTALL = "pip install outrider[cpu]"
DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-qnn",
    "onnxruntime-cann",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""Distributions that all install the one folder ``onnxruntime``: two of them overwrite each other."""

Feeds = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """What a `outrider_engine.model.Model` needs of a runtime. Tensors carry the batch axis."""

    @property
    def inputs(self) -> Sequence[TensorFact]:
        """What the model reads."""
        ...

    @property
    def provider(self) -> str:
        """The execution provider that really runs the model."""
        ...

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name."""
        ...


class OrtSession:
    """One ONNX model in ONNX Runtime. Takes bytes, never a path, so that nothing outside them can be read."""

    def __init__(
        self, data: bytes, *, threads: int = 1, providers: Sequence[str] = (CPU,), optimise: bool = True
    ) -> None:
        """Loads ``data``, which should have passed `outrider_engine.walk.walk`.

        Raises:
            OperatorSetupError: no ONNX Runtime, two of them, or none of ``providers`` in it.
            BundleMismatchError: the runtime refuses the model.
        """
        runtime = load_runtime()
        _check_providers(providers, runtime.get_available_providers())
        try:
            self._session = runtime.InferenceSession(
                data, _options(runtime, threads, optimise), providers=list(providers), enable_fallback=0
            )
        except Exception as error:  # its exceptions share no other base
            raise _refusal("ONNX Runtime refuses the model", error, "model_refused") from error
        self.inputs = [_fact(node) for node in self._session.get_inputs()]
        self.outputs = [_fact(node) for node in self._session.get_outputs()]
        self.provider: str = self._session.get_providers()[0]
        self._names = [fact.name for fact in self.outputs]

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name, for tensors with a batch axis.

        Raises:
            BundleMismatchError: the runtime refuses the tensors, or fails on them.
        """
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:  # its exceptions share no other base
            raise _refusal("the model fails as it runs", error, "model_failed") from error


def installed_runtimes(path: Sequence[str] | None = None) -> list[str]:
    """``name version`` of every distribution of ONNX Runtime found on ``path`` (default: ``sys.path``)."""
    where = list(sys.path if path is None else path)
    found = ((name, next(iter(metadata.distributions(name=name, path=where)), None)) for name in DISTRIBUTIONS)
    return [f"{name} {distribution.version}" for name, distribution in found if distribution]


def check_runtimes(installed: Sequence[str]) -> None:
    """The rule: at most one distribution.

    Raises:
        OperatorSetupError: two or more; says which to uninstall.
    """
    if len(installed) > 1:
        names = [entry.split()[0] for entry in installed]
        keep = next(name for name in reversed(names) if name != "onnxruntime")
        drop = " ".join(name for name in names if name != keep)
        raise OperatorSetupError(
            f"{len(installed)} ONNX Runtimes overwrite each other here: {', '.join(installed)}",
            reason="two_runtimes",
            fix=f"pip uninstall {drop}, then pip install --force-reinstall {keep}",
        )


@cache
def load_runtime() -> ModuleType:
    """The module ``onnxruntime``, imported with its telemetry off.

    Raises:
        OperatorSetupError: it is missing, broken, or there are two.
    """
    check_runtimes(installed_runtimes())
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        runtime = importlib.import_module("onnxruntime")
        runtime.disable_telemetry_events()  # for a process that had imported it before us
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise OperatorSetupError("ONNX Runtime is not installed", reason="no_runtime", fix=INSTALL) from error
        raise OperatorSetupError(
            f"ONNX Runtime does not load: {error}", reason="runtime_broken", fix=f"install it anew: {INSTALL}"
        ) from error
    return runtime


def _options(runtime: ModuleType, threads: int, optimise: bool) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    level = runtime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False  # an arena keeps what the largest batch ever needed
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what it would log, it also raises
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the one format that the walk has read
    return options


def _check_providers(wanted: Sequence[str], available: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in available]
    if missing or not wanted:
        raise OperatorSetupError(
            f"this ONNX Runtime has no {missing[0] if missing else 'provider to run on'}",
            reason="provider_missing",
            fix=f"choose among {', '.join(available)}, or install the build for your hardware",
        )


def _fact(node: Any) -> TensorFact:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    return TensorFact(node.name, _DTYPES.get(kind, kind), tuple(node.shape))


_DTYPES = {"float": "float32", "double": "float64"}


def _refusal(what: str, error: Exception, reason: str) -> BundleMismatchError:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
        reason = "out_of_memory"
    said = " ".join(str(error).split())[:400]
    return BundleMismatchError(f"{what}: {said}", reason=reason, fix="build the bundle again")
