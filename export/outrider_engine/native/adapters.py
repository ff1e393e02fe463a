"""Where TensorRT on a Jetson and TensorRT for RTX differ, one class each behind one seam. Knows no files.

| | ``tensorrt`` | ``tensorrt_rtx`` |
|---|---|---|
| builds for | the GPU that it runs on | named compute capabilities, on any machine |
| what makes the next build faster | a timing cache | nothing: its timing cache has no effect, and keeps it from building without a GPU |
| what makes the next start faster | nothing: kernels are in the engine | a runtime cache of the kernels that it compiles at first use |

Networks are strongly typed in both: what is computed in which precision is the ONNX model's word, and INT8 means that it holds
quantise and dequantise operators. TF32 is turned off: it rounds float32 to ten bits of mantissa, which no certificate was made with.
"""

from typing import Any, Protocol

from outrider_engine.native.library import Config, Context, Engine, Library
from outrider_engine.native.target import RTX_CAPABILITIES, Gpu, Target
from outrider_wire.errors import BundleMismatchError, OperatorConfigError, OperatorSetupError


class Adapter(Protocol):
    """What one library does in its own way."""

    name: str

    def gpu_for(self, gpu: Gpu) -> Gpu:
        """As far as an engine depends on it.

        Raises:
            OperatorConfigError: the library builds nothing for it.
        """
        ...

    def configure(self, library: Library, config: Config, target: Target, saved: bytes) -> None:
        """What a build needs beyond its network; ``saved`` is what `harvest` gave last time, or empty."""
        ...

    def harvest(self, config: Config) -> bytes:
        """What makes the next build faster; empty: nothing does."""
        ...

    def context(self, engine: Engine, saved: bytes) -> tuple[Context, Any]:
        """What the engine runs in, and a handle for `compiled`; ``saved`` is what that gave last time, or empty.

        Raises:
            BundleMismatchError: the device has no memory for it.
        """
        ...

    def compiled(self, handle: Any) -> bytes:
        """What makes the next start faster; empty: nothing does."""
        ...


class JetPack:
    """``tensorrt``, as JetPack brings it."""

    name = "tensorrt"

    def gpu_for(self, gpu: Gpu) -> Gpu:
        """The very GPU."""
        if not gpu.name:
            raise OperatorConfigError(
                "tensorrt builds engines on the GPU that they run on only",
                reason="builds_on_device",
                fix='set runtime.providers = ["tensorrt", …] on the device: it builds its own',
            )
        return gpu

    def configure(self, library: Library, config: Any, target: Target, saved: bytes) -> None:
        """Brings the timings of the builds before."""
        config.set_timing_cache(config.create_timing_cache(saved), False)

    def harvest(self, config: Any) -> bytes:
        """The timings of this build and those before."""
        cache = config.get_timing_cache()
        return bytes(cache.serialize()) if cache is not None else b""

    def context(self, engine: Engine, saved: bytes) -> tuple[Context, Any]:
        """A plain one."""
        return _some(engine.create_execution_context()), None

    def compiled(self, handle: Any) -> bytes:
        """Nothing: kernels are in the engine."""
        return b""


class Rtx:
    """``tensorrt_rtx``, as PyPI brings it."""

    name = "tensorrt_rtx"

    def gpu_for(self, gpu: Gpu) -> Gpu:
        """Every GPU of that capability."""
        if gpu.capability not in RTX_CAPABILITIES:
            raise OperatorConfigError(
                f"tensorrt_rtx builds nothing for {gpu.capability}",
                reason="unknown_capability",
                fix=f"it builds for {', '.join(RTX_CAPABILITIES)}; a Jetson's own engines are built by tensorrt",
            )
        return Gpu(name="", capability=gpu.capability)

    def configure(self, library: Any, config: Any, target: Target, saved: bytes) -> None:
        """Names the compute capability, so that no GPU is asked for its own."""
        known = library.ComputeCapability.__members__.get(target.gpu.capability.upper())
        config.num_compute_capabilities = 1
        if known is None or not config.set_compute_capability(known, 0):
            raise OperatorSetupError(
                f"tensorrt_rtx {target.version} does not build for {target.gpu.capability}",
                reason="unknown_capability",
                fix="install the version that does",
            )

    def harvest(self, config: Any) -> bytes:
        """Nothing: see the module."""
        return b""

    def context(self, engine: Any, saved: bytes) -> tuple[Context, Any]:
        """One that remembers the kernels it compiles. A cache of another GPU, driver or version is refused by the library itself."""
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if saved:
            cache.deserialize(saved)
        config.set_runtime_cache(cache)
        return _some(engine.create_execution_context(config)), cache

    def compiled(self, handle: Any) -> bytes:
        """The kernels that were compiled so far."""
        return bytes(handle.serialize())


ADAPTERS: dict[str, Adapter] = {"tensorrt": JetPack(), "tensorrt_rtx": Rtx()}
"""By the name of the library, which is the name in a list of providers."""


def _some(context: Any) -> Context:
    if context is None:
        raise BundleMismatchError(
            "the GPU has no memory to run the engine in", reason="out_of_memory", fix="stop what else runs on it"
        )
    found: Context = context
    return found
