"""What runs a model, as a `outrider_engine.model.Model` sees it, and ONNX Runtime behind that seam. Knows no bundle.

ONNX Runtime is set up for a device unless told otherwise: one thread, no spinning, no arena, nothing sent home. The other
thing behind the seam is a native engine: `outrider_engine.native.native_session`.

This is the one module that imports ``onnxruntime``: its official builds report usage to their maker from 1.29 on unless
``ORT_DISABLE_TELEMETRY`` is set before the first import (https://github.com/microsoft/onnxruntime/pull/27379).
"""

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from outrider_engine.cache_folder import CacheFolder
from outrider_engine.graph_cache import GraphCache
from outrider_engine.providers import CPU, PassedOver, not_started, usable
from outrider_engine.walk import TensorFact
from outrider_wire.errors import BundleMismatchError, OperatorSetupError

log = logging.getLogger(__name__)

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
        """The execution provider, or the engine, that really runs the model."""
        ...

    @property
    def passed_over(self) -> Sequence[PassedOver]:
        """The providers that were wanted before it, and why they do not run."""
        ...

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How ONNX Runtime runs models."""

    threads: int = 1
    """Within one operator."""
    arena: bool = False
    """Keep what the largest batch ever needed, instead of giving it back: faster where memory is plenty."""
    spinning: bool = False
    """Threads wait busily between operators: a little faster, at a whole core's cost."""
    io_binding: Literal["auto", "always", "never"] = "auto"
    """Outputs stay on the device until they are asked for; ``auto``: where the first provider is not the processor."""
    graphs: GraphCache | None = None
    """Where optimised graphs are kept; None: every start optimises anew."""


PLAIN = RunOptions()


class OrtSession:
    """One ONNX model in ONNX Runtime. Takes bytes, never a path, so that nothing outside them can be read."""

    def __init__(
        self,
        data: bytes,
        *,
        providers: Sequence[str] = (CPU,),
        optimise: bool = True,
        options: RunOptions = PLAIN,
    ) -> None:
        """Loads ``data``, which should have passed `outrider_engine.walk.walk`.

        Args:
            data: the model.
            providers: in order of preference; one that is not to be had is passed over, logged, and named in ``passed_over``.
            optimise: False leaves the graph as it is.
            options: threads, memory, and where optimised graphs are kept.

        Raises:
            OperatorSetupError: no ONNX Runtime, two of them, or none of ``providers`` in it.
            BundleMismatchError: the runtime refuses the model.
        """
        runtime = load_runtime()
        found = usable(providers, runtime.get_available_providers())
        self._session = _open(runtime, data, found.providers, optimise, options)
        running = self._session.get_providers()
        idle = not_started(found.providers, running)
        self.passed_over = (*found.absent, *idle)
        for name, reason, fix in self.passed_over:
            log.warning(
                "provider.passed_over", extra={"provider": name, "reason": reason, "running": running[0], "fix": fix}
            )
        self.inputs = [_fact(node) for node in self._session.get_inputs()]
        self.outputs = [_fact(node) for node in self._session.get_outputs()]
        self.provider: str = running[0]
        self._names = [fact.name for fact in self.outputs]
        bound = options.io_binding == "always" or (options.io_binding == "auto" and self.provider != CPU)
        self._run = self._run_bound if bound else self._run_plain

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name, for tensors with a batch axis.

        Raises:
            BundleMismatchError: the runtime refuses the tensors, or fails on them.
        """
        try:
            return dict(zip(self._names, self._run(feeds), strict=True))
        except Exception as error:  # its exceptions share no other base
            raise _refusal("the model fails as it runs", error, "model_failed") from error

    def _run_plain(self, feeds: Feeds) -> Sequence[NDArray[Any]]:
        found: list[NDArray[Any]] = self._session.run(self._names, feeds)
        return found

    def _run_bound(self, feeds: Feeds) -> Sequence[NDArray[Any]]:
        """Outputs are made where the provider computes, and copied here once, at the end."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        device = _DEVICES.get(self.provider, "cpu")
        for name in self._names:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding)
        found: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return found


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


def graph_cache(folder: CacheFolder) -> GraphCache:
    """A cache of optimised graphs for the ONNX Runtime that is installed here. Errors as `load_runtime`."""
    return GraphCache(folder, runtime=runtime_name())


def runtime_name() -> str:
    """The ONNX Runtime that is installed here, with its version. Errors as `load_runtime`."""
    runtime = load_runtime()
    return f"onnxruntime {runtime.__version__} {runtime.get_device()}"


def _open(runtime: ModuleType, data: bytes, providers: Sequence[str], optimise: bool, options: RunOptions) -> Any:
    """A session on ``data``; of the cached graph where there is one, which is kept where there was none."""
    graphs = options.graphs if optimise and providers[0] == CPU else None  # others compile what cannot be written down
    if graphs is None:
        return _loaded(runtime, data, providers, _options(runtime, options, optimise=optimise))
    if (known := graphs.load(data)) is not None:
        try:
            return _loaded(runtime, known, providers, _options(runtime, options, optimise=False))
        except BundleMismatchError as error:
            log.warning("graph.refused", extra={"what": error.what})
            graphs.drop(data)
    scratch, setup = graphs.scratch(), _options(runtime, options, optimise=True)
    setup.optimized_model_filepath = str(scratch)
    try:
        session = _loaded(runtime, data, providers, setup)
        graphs.store(data, scratch.read_bytes())
    except (
        BundleMismatchError,
        OSError,
    ) as error:  # the model's fault, which comes again; or a full disk's, which does not
        log.warning("graph.not_kept", extra={"what": str(error)})
        return _loaded(runtime, data, providers, _options(runtime, options, optimise=True))
    finally:
        scratch.unlink(missing_ok=True)
    return session


def _loaded(runtime: ModuleType, data: bytes, providers: Sequence[str], setup: Any) -> Any:
    try:
        return runtime.InferenceSession(data, setup, providers=list(providers), enable_fallback=0)
    except Exception as error:  # its exceptions share no other base
        raise _refusal("ONNX Runtime refuses the model", error, "model_refused") from error


def _options(runtime: ModuleType, wanted: RunOptions, *, optimise: bool) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = wanted.threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    level = runtime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = wanted.arena  # an arena keeps what the largest batch ever needed
    options.enable_mem_pattern = (
        True  # all of a run's tensors in one piece, which is given back: 10 of 80 µs of a small model
    )
    options.log_severity_level = 4  # what it would log, it also raises, or shows in get_providers()
    spins = "1" if wanted.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spins)
    options.add_session_config_entry("session.inter_op.allow_spinning", spins)
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the one format that the walk has read
    return options


_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
}
"""Where a provider leaves its outputs, as ONNX Runtime's binding names it; others: in the processor's memory."""


def _fact(node: Any) -> TensorFact:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    return TensorFact(node.name, _DTYPES.get(kind, kind), tuple(node.shape))


_DTYPES = {"float": "float32", "double": "float64"}


def _refusal(what: str, error: Exception, reason: str) -> BundleMismatchError:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
        reason = "out_of_memory"
    said = " ".join(str(error).split())[:400]
    return BundleMismatchError(f"{what}: {said}", reason=reason, fix="build the bundle again")
