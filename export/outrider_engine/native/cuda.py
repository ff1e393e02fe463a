"""The few calls of the CUDA driver that running an engine takes, by ctypes: the driver is there wherever a GPU is. Knows no engines.

Reference: NVIDIA, "CUDA Driver API" (``cuInit``, ``cuDevicePrimaryCtxRetain``, ``cuMemAlloc_v2``, …). Everything fails with a sentence,
never with a bare number.
"""

import ctypes
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from outrider_engine.native.target import Gpu
from outrider_wire.errors import BundleMismatchError, OperatorSetupError

DRIVER = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…``"""
_OUT_OF_MEMORY = 2
"""``CUDA_ERROR_OUT_OF_MEMORY``"""


class Device(Protocol):
    """A GPU's memory and one stream of work."""

    @property
    def gpu(self) -> Gpu:
        """Which it is."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        ...

    def use(self) -> None:
        """Makes the calling thread one that works on this device; cheap when it already is."""
        ...

    def allocate(self, size: int) -> int:
        """Address of so many bytes."""
        ...

    def free(self, address: int) -> None:
        """Gives them back."""
        ...

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Puts a copy on the stream. ``array`` must live, unchanged, until `finish`."""
        ...

    def download(self, array: NDArray[Any], address: int) -> None:
        """Puts a copy back on the stream; ``array`` is filled by `finish`."""
        ...

    def finish(self) -> None:
        """Waits for all that is on the stream."""
        ...


class CudaDevice:
    """The first GPU of this machine.

    Raises:
        OperatorSetupError: no driver or no GPU (``no_gpu``).
    """

    def __init__(self) -> None:
        self._driver = _driver()
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self.gpu = self._described(device)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.use()
        made = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(made), 1)  # CU_STREAM_NON_BLOCKING
        self.stream: int = made.value or 0

    def use(self) -> None:
        """As `Device.use`."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """As `Device.allocate`."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def free(self, address: int) -> None:
        """As `Device.free`."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """As `Device.upload`."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def download(self, array: NDArray[Any], address: int) -> None:
        """As `Device.download`."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def finish(self) -> None:
        """As `Device.finish`."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _described(self, device: ctypes.c_int) -> Gpu:
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, len(name), device)
        numbers = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        return Gpu(name=name.value.decode(errors="replace"), capability="sm{}{}".format(*numbers))

    def _call(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._driver, name)(*arguments))
        if not code:
            return
        said = ctypes.c_char_p()
        self._driver.cuGetErrorString(code, ctypes.byref(said))
        text = (said.value or b"error").decode(errors="replace")
        if name in ("cuInit", "cuDeviceGet"):
            raise OperatorSetupError(
                f"the CUDA driver finds no GPU: {text}",
                reason="no_gpu",
                fix="see whether nvidia-smi (or tegrastats) does",
            )
        raise BundleMismatchError(
            f"the GPU fails ({name}): {text}",
            reason="out_of_memory" if code == _OUT_OF_MEMORY else "gpu_failed",
            fix="the model goes on answering on ONNX Runtime",
        )


@cache
def open_device() -> CudaDevice:
    """This machine's GPU, opened once. Errors as `CudaDevice`."""
    return CudaDevice()


def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise OperatorSetupError(
            f"no CUDA driver is here ({DRIVER})", reason="no_gpu", fix="leave native engines out of runtime.providers"
        ) from error


def aligned(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The same numbers in one block of that type, copied only where they are not."""
    return np.ascontiguousarray(array, dtype=dtype)
