"""The part of TensorRT's Python API that is used here, as types, and how the library is found. Builds and runs nothing.

Both libraries have this API: ``tensorrt`` (JetPack's ``python3-libnvinfer``) and ``tensorrt_rtx`` (PyPI's ``tensorrt-rtx-cu12``).
Neither is a dependency, so that the types are protocols of our own. What only one of the two has is in `outrider_engine.native.adapters`.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from outrider_wire.errors import OperatorSetupError

LEAST = (10, 0)
"""Of ``tensorrt``: older ones lack strongly typed networks as they are used here (JetPack 6 brings 10.3)."""
INSTALL = {
    "tensorrt": "it comes with JetPack: sudo apt install python3-libnvinfer, and a virtual environment that sees system packages",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu12",
}


class Tensor(Protocol):
    """An input of a network."""

    name: str

    @property
    def shape(self) -> Sequence[int]:
        """−1 where the size is left open."""
        ...


class Network(Protocol):
    """A parsed model."""

    @property
    def num_inputs(self) -> int:
        """How many tensors it reads."""
        ...

    def get_input(self, index: int, /) -> Tensor:
        """One of them."""
        ...


class Profile(Protocol):
    """Which sizes an engine must take."""

    def set_shape(self, input: Any, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - the library's own names
        """Of one input."""
        ...


class Config(Protocol):
    """How an engine is built. What only one library has is reached through `outrider_engine.native.adapters`."""

    progress_monitor: Any

    def add_optimization_profile(self, profile: Any, /) -> int:
        """Its number; −1: it is not valid."""
        ...

    def clear_flag(self, flag: Any, /) -> None:
        """Turns a flag off."""
        ...


class Builder(Protocol):
    """Makes engines."""

    max_threads: int

    def create_network(self, flags: int = 0, /) -> Any:
        """An empty network."""
        ...

    def create_builder_config(self) -> Any:
        """Settings."""
        ...

    def create_optimization_profile(self) -> Any:
        """An empty profile."""
        ...

    def build_serialized_network(self, network: Any, config: Any, /) -> Any:
        """The engine's bytes (a buffer); None: it cannot be built, and the logger was told why."""
        ...


class Parser(Protocol):
    """Reads ONNX."""

    @property
    def num_errors(self) -> int:
        """How much it could not read."""
        ...

    def parse(self, model: Any, /) -> bool:
        """Whether the network was filled."""
        ...

    def get_error(self, index: int, /) -> Any:
        """What it could not read."""
        ...


class Context(Protocol):
    """An engine with the memory to run in."""

    def set_input_shape(self, name: str, shape: tuple[int, ...], /) -> bool:
        """Before each run of another size."""
        ...

    def get_tensor_shape(self, name: str, /) -> Any:
        """Of an output, once the inputs' shapes are set."""
        ...

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        """Where on the device a tensor lies."""
        ...

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        """Puts a run on a stream."""
        ...


class Engine(Protocol):
    """A model compiled for one GPU or one kind of GPU."""

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        ...

    def get_tensor_name(self, index: int, /) -> str:
        """Of one of them."""
        ...

    def get_tensor_mode(self, name: str, /) -> Any:
        """Input or output."""
        ...

    def get_tensor_shape(self, name: str, /) -> Any:
        """−1 where the size is left open."""
        ...

    def get_tensor_dtype(self, name: str, /) -> Any:
        """Its element type."""
        ...

    def create_execution_context(self) -> Any:
        """What it runs in; None: the device has no memory for it."""
        ...


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, serialized_engine: Any, /) -> Any:
        """The engine; None: it does not fit this library or this GPU, and the logger was told why."""
        ...


class Library(Protocol):
    """The module itself."""

    @property
    def __version__(self) -> str:
        """As ``10.3.0``."""
        ...

    @property
    def ILogger(self) -> Any:  # noqa: N802 - the library's own name, like the next ones
        """Base class of what is told of trouble; its ``Severity`` counts down to what is worst."""
        ...

    @property
    def IProgressMonitor(self) -> Any:  # noqa: N802
        """Base class of what is told of progress."""
        ...

    @property
    def Builder(self) -> Callable[[Any], Builder]:  # noqa: N802
        """Of a logger."""
        ...

    @property
    def OnnxParser(self) -> Callable[[Any, Any], Parser]:  # noqa: N802
        """Of a network and a logger."""
        ...

    @property
    def Runtime(self) -> Callable[[Any], Runtime]:  # noqa: N802
        """Of a logger."""
        ...

    @property
    def TensorIOMode(self) -> Any:  # noqa: N802
        """``INPUT``, ``OUTPUT``."""
        ...

    @property
    def BuilderFlag(self) -> Any:  # noqa: N802
        """``TF32`` and others."""
        ...

    @property
    def NetworkDefinitionCreationFlag(self) -> Any:  # noqa: N802
        """``STRONGLY_TYPED`` and others."""
        ...

    @property
    def nptype(self) -> Callable[[Any], Any]:
        """numpy's type of an element type."""
        ...


def load_library(name: str) -> Library:
    """The library of that name.

    Raises:
        OperatorSetupError: it is not installed, does not load, or is too old; says what to do.
    """
    try:
        library = cast(Library, importlib.import_module(name))
        version = library.__version__
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise OperatorSetupError(
            f"{name} is not installed" if missing else f"{name} does not load: {error}",
            reason="no_library" if missing else "library_broken",
            fix=INSTALL.get(name, ""),
        ) from error
    if name == "tensorrt" and tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        raise OperatorSetupError(
            f"tensorrt {version} is too old: 10.0 is the least",
            reason="library_too_old",
            fix="use JetPack 6 or newer",
        )
    return library


def logger_of(library: Library, told: list[str]) -> Any:
    """A logger that keeps what is worse than a warning in ``told``, and says nothing itself."""
    worst = int(library.ILogger.Severity.ERROR)

    def log(self: Any, severity: Any, msg: str) -> None:
        if int(severity) <= worst:
            told.append(" ".join(str(msg).split())[:400])

    def init(self: Any) -> None:
        library.ILogger.__init__(self)

    return type("KeepsErrors", (library.ILogger,), {"log": log, "__init__": init})()
