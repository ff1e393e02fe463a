"""What an engine is built for and known by. Pure.

TensorRT on a Jetson makes an engine for the GPU that it is built on; TensorRT for RTX makes one for named compute capabilities, on
any machine. Both refuse an engine of another version of themselves, so that the version is part of its name's facts.
"""

from msgspec import Struct

from outrider_engine.sealed import Facts

MAX_BATCH = 64
"""Examples that an engine takes at once, where its model leaves the batch open; more are run in turn."""
RTX_CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT for RTX 1.7 can build for (its ``ComputeCapability``)."""


class Gpu(Struct, frozen=True):
    """A GPU."""

    name: str
    """As its driver says it; '' where an engine is built for every GPU of the capability."""
    capability: str
    """``sm87``"""


class Target(Struct, kw_only=True, frozen=True):
    """For what an engine is built."""

    model: str
    """SHA-256 of the ONNX model."""
    library: str
    version: str
    gpu: Gpu

    @property
    def facts(self) -> Facts:
        """What an engine must agree with to be used."""
        gpu = f"{self.gpu.name} {self.gpu.capability}".strip()
        return {"model": self.model, "library": self.library, "version": self.version, "gpu": gpu}

    @property
    def file(self) -> str:
        """Where a cache keeps it: a new version of the library, or another GPU, finds the old one there, and says so."""
        return f"engine-{self.library}-{self.model[:32]}"
