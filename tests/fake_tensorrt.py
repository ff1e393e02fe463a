"""TensorRT's Python API as far as Outrider uses it, without a GPU: an "engine" is the ONNX model itself, run by ONNX Runtime.

`FakeLibrary` stands in for the module (of either name), `FakeDevice` for a GPU's memory, which is this process's. What the real thing
refuses, this refuses: an engine of another version, a build without an optimisation profile, a capability that nobody named.
"""

import ctypes
import enum
import json
from typing import Any

import numpy as np

from outrider_engine.native.target import Gpu
from outrider_engine.session import OrtSession
from outrider_wire.errors import BundleMismatchError

ORIN = Gpu(name="Orin", capability="sm87")


class FakeDevice:
    """`outrider_engine.native.cuda.Device` in the memory of this process."""

    stream = 7

    def __init__(self, gpu: Gpu = ORIN, *, free_bytes: int = 1 << 30) -> None:
        self.gpu = gpu
        self.free_bytes = free_bytes
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def use(self) -> None:
        """Any thread may."""

    def allocate(self, size: int) -> int:
        """An address; fails like a GPU that is full."""
        if sum(map(len, self.memory.values())) + size > self.free_bytes:
            raise BundleMismatchError("the GPU fails (cuMemAlloc_v2): out of memory", reason="out_of_memory")
        block = ctypes.create_string_buffer(max(1, size))
        address = ctypes.addressof(block)
        self.memory[address] = block
        return address

    def free(self, address: int) -> None:
        """Gives it back."""
        del self.memory[address]

    def upload(self, address: int, array: np.ndarray) -> None:
        """At once."""
        assert array.nbytes <= len(self.memory[address])
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        """At once."""
        assert array.nbytes <= len(self.memory[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def finish(self) -> None:
        """Nothing is under way."""


class Severity(enum.IntEnum):
    """As the library counts it."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class _Base:
    def __init__(self) -> None:
        pass


class ILogger(_Base):
    """Told of trouble."""

    Severity = Severity


class IProgressMonitor(_Base):
    """Told of progress."""


class _Tensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class _Network:
    def __init__(self) -> None:
        self.data = b""
        self.tensors: list[_Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.tensors)

    def get_input(self, index: int) -> _Tensor:
        return self.tensors[index]


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - the library's own names
        self.shapes[input] = (min, opt, max)


class _TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"t"


class _Config:
    def __init__(self) -> None:
        self.progress_monitor: Any = None
        self.profiles: list[_Profile] = []
        self.cleared: list[str] = []
        self.num_compute_capabilities = 0
        self.capability: int | None = None
        self.timing: _TimingCache | None = None

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def clear_flag(self, flag: str) -> None:
        self.cleared.append(flag)

    def create_timing_cache(self, data: bytes) -> _TimingCache:
        return _TimingCache(data)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timing = cache
        return True

    def get_timing_cache(self) -> _TimingCache | None:
        return self.timing

    def set_compute_capability(self, capability: int, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.capability = capability
        return True


class _Cache:
    def __init__(self) -> None:
        self.known = b""

    def deserialize(self, data: bytes) -> bool:
        self.known = data
        return True

    def serialize(self) -> bytes:
        return self.known or b"kernels"


class _RuntimeConfig:
    def __init__(self) -> None:
        self.cache: _Cache | None = None

    def create_runtime_cache(self) -> _Cache:
        return _Cache()

    def set_runtime_cache(self, cache: _Cache) -> None:
        self.cache = cache


class _Context:
    def __init__(self, engine: "_Engine") -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.places[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if size < 0 else size for size in self.engine.get_tensor_shape(name))

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == FakeDevice.stream
        feeds = {}
        for name, shape in self.shapes.items():
            feeds[name] = np.empty(shape, np.float32)
            ctypes.memmove(feeds[name].ctypes.data, self.places[name], feeds[name].nbytes)
        if self.engine.library.fails:
            return False
        for name, array in self.engine.session.run(feeds).items():
            tilt = np.float32(self.engine.library.shift) * np.arange(1, array.shape[-1] + 1, dtype=np.float32)
            shifted = np.ascontiguousarray(array + (tilt if array.ndim > 1 else tilt[:1]))
            ctypes.memmove(self.places[name], shifted.ctypes.data, shifted.nbytes)
        return True


class _Engine:
    def __init__(self, library: "FakeLibrary", data: bytes) -> None:
        self.library = library
        self.session = OrtSession(data)
        self.facts = {fact.name: fact for fact in (*self.session.inputs, *self.session.outputs)}

    @property
    def num_io_tensors(self) -> int:
        return len(self.facts)

    def get_tensor_name(self, index: int) -> str:
        return list(self.facts)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in [fact.name for fact in self.session.inputs] else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.facts[name].shape)

    def get_tensor_dtype(self, name: str) -> str:
        return self.facts[name].dtype

    def create_execution_context(self, config: _RuntimeConfig | None = None) -> _Context:
        return _Context(self)

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig()


class FakeLibrary:
    """The module. ``shift`` is added to all an engine says, once to the first column, twice to the second; ``fails``: a run fails."""

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor

    class BuilderFlag:
        """As far as it is used."""

        TF32 = "TF32"

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        """As far as it is used."""

        STRONGLY_TYPED = 1

    class TensorIOMode:
        """As far as it is used."""

        INPUT = "input"
        OUTPUT = "output"

    class ComputeCapability(enum.IntEnum):
        """As far as it is used."""

        SM86 = 86
        SM89 = 89

    def __init__(self, version: str = "10.3.0", *, shift: float = 0.0) -> None:
        self.__version__ = version
        self.shift = shift
        self.fails = False
        self.configs: list[_Config] = []

    def nptype(self, dtype: str) -> Any:
        """numpy's type."""
        return np.dtype(dtype).type

    def OnnxParser(self, network: _Network, logger: Any) -> Any:  # noqa: N802 - the library's own name
        """Reads ONNX."""
        return _Parser(network)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        """Makes engines."""
        return _Builder(self, logger)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        """Loads engines."""
        return _Runtime(self, logger)


class _Parser:
    num_errors = 0

    def __init__(self, network: _Network) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        self._network.data = bytes(model)
        self._network.tensors = [
            _Tensor(fact.name, tuple(size if isinstance(size, int) else -1 for size in fact.shape))
            for fact in OrtSession(bytes(model)).inputs
        ]
        return True

    def get_error(self, index: int) -> str:
        raise IndexError(index)


class _Builder:
    max_threads = 8

    def __init__(self, library: FakeLibrary, logger: Any) -> None:
        self._library, self._logger = library, logger

    def create_network(self, flags: int) -> _Network:
        assert flags == 1 << int(self._library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return _Network()

    def create_builder_config(self) -> _Config:
        config = _Config()
        self._library.configs.append(config)
        return config

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        open_ones = {tensor.name for tensor in network.tensors if tensor.shape[0] < 0}
        named = {name for profile in config.profiles for name in profile.shapes}
        if not open_ones <= named:
            self._logger.log(Severity.ERROR, "no optimization profile has been defined")
            return None
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            monitor.step_complete("Building engine", step)
        monitor.phase_finish("Building engine")
        header = json.dumps({"version": self._library.__version__}).encode()
        return header + b"\n" + network.data


class _Runtime:
    def __init__(self, library: FakeLibrary, logger: Any) -> None:
        self._library, self._logger = library, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> _Engine | None:
        header, _, data = bytes(serialized_engine).partition(b"\n")
        if json.loads(header)["version"] != self._library.__version__:
            self._logger.log(Severity.ERROR, "the engine was built by another version")
            return None
        return _Engine(self._library, data)
