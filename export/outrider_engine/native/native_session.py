"""An engine that answers: `outrider_engine.session.Session` over TensorRT's execution context. Knows no bundle, cache or build."""

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outrider_engine.native.adapters import Adapter
from outrider_engine.native.cuda import Device, aligned
from outrider_engine.native.library import Context, Engine, Library, logger_of
from outrider_engine.native.target import MAX_BATCH
from outrider_engine.providers import PassedOver
from outrider_engine.session import Feeds
from outrider_engine.walk import TensorFact
from outrider_wire.errors import BundleMismatchError

log = logging.getLogger(__name__)

_FIX = "the model goes on answering on ONNX Runtime"


class _Place(NamedTuple):
    """A tensor's memory on the device."""

    address: int
    dtype: Any
    """numpy's."""


class NativeSession:
    """One engine on one GPU. Used by one thread at a time.

    Args:
        engine: its bytes, which a seal has vouched for.
        adapter: of the library that built it.
        library: the module.
        device: the GPU.
        compiled: what `on_first_run` was told last time, or empty.
        passed_over: the providers that were wanted before it.

    Raises:
        BundleMismatchError: the library refuses the engine (``engine_refused``), or the GPU has no memory for it.
    """

    def __init__(
        self,
        engine: bytes,
        *,
        adapter: Adapter,
        library: Library,
        device: Device,
        compiled: bytes = b"",
        passed_over: Sequence[PassedOver] = (),
    ) -> None:
        device.use()
        told: list[str] = []
        self._logger = logger_of(library, told)  # held: the library keeps no reference to it
        self._runtime = library.Runtime(self._logger)
        loaded = self._runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise _failed(f"{adapter.name} refuses the engine", told, "engine_refused")
        self._engine: Engine = loaded
        self._adapter, self._device, self._told = adapter, device, told
        context, self._handle = adapter.context(self._engine, compiled)
        self._context: Context = context
        self.provider = adapter.name
        self.passed_over = tuple(passed_over)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        reads = library.TensorIOMode.INPUT
        self.inputs = [self._fact(library, name) for name in names if self._engine.get_tensor_mode(name) == reads]
        self.outputs = [self._fact(library, name) for name in names if self._engine.get_tensor_mode(name) != reads]
        self._keep: Callable[[bytes], None] | None = None
        self._most = _most([*self.inputs, *self.outputs])
        self._places = self._allocated()
        given_back = weakref.finalize(self, _free, device, [place.address for place in self._places.values()])
        given_back.atexit = False  # the driver takes all back with the process

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name, for tensors with a batch axis; a batch larger than the engine takes is run in turn.

        Raises:
            BundleMismatchError: the tensors do not fit, or the GPU fails.
        """
        facts = {fact.name: fact for fact in self.inputs}
        if set(feeds) != set(facts):
            raise _failed(f"the engine reads {sorted(facts)}, and is given {sorted(feeds)}", [], "model_failed")
        arrays = {name: self._checked(facts[name], array) for name, array in feeds.items()}
        rows, *others = {len(array) for array in arrays.values()}
        if others:
            raise _failed("the tensors hold different numbers of examples", [], "model_failed")
        if rows <= self._most:
            return self._run(arrays)
        starts = range(0, rows, self._most)
        found = [self._run({n: a[start : start + self._most] for n, a in arrays.items()}) for start in starts]
        return {fact.name: np.concatenate([each[fact.name] for each in found]) for fact in self.outputs}

    def on_first_run(self, keep: Callable[[bytes], None]) -> None:
        """Names who keeps what makes the next start faster: told once, after the first run that succeeds."""
        self._keep = keep

    def _run(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._device.use()
        try:
            found = self._queued(arrays)
        finally:
            self._device.finish()  # whatever happened: what is under way still reads and writes these arrays
        if self._keep is not None:
            keep, self._keep = self._keep, None
            keep(self._adapter.compiled(self._handle))
        return found

    def _queued(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, array in arrays.items():
            self._demand(
                self._context.set_input_shape(name, array.shape), f"it takes no {name!r} of shape {array.shape}"
            )
            self._device.upload(self._places[name].address, array)
        found = {}
        for fact in self.outputs:
            shape = tuple(self._context.get_tensor_shape(fact.name))
            self._demand(all(size >= 0 for size in shape), f"the shape of {fact.name!r} depends on the input's values")
            found[fact.name] = np.empty(shape, self._places[fact.name].dtype)
        self._demand(self._context.execute_async_v3(self._device.stream), "it cannot be run")
        for name, array in found.items():
            self._device.download(array, self._places[name].address)
        return found

    def _allocated(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        try:
            for fact in (*self.inputs, *self.outputs):
                dtype = np.dtype(fact.dtype)
                sizes = [self._most if not isinstance(size, int) else size for size in fact.shape]
                address = self._device.allocate(int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize)
                places[fact.name] = _Place(address, dtype)
                self._demand(self._context.set_tensor_address(fact.name, address), f"it has no tensor {fact.name!r}")
        except BundleMismatchError:
            _free(self._device, [place.address for place in places.values()])
            raise
        return places

    def _checked(self, fact: TensorFact, array: NDArray[Any]) -> NDArray[Any]:
        fixed = [(want, have) for want, have in zip(fact.shape, array.shape, strict=False) if isinstance(want, int)]
        fits = array.ndim == len(fact.shape) and all(want == have for want, have in fixed) and array.dtype == fact.dtype
        if not fits or not len(array):
            raise _failed(
                f"tensor {fact.name!r} is {array.dtype} of shape {array.shape}, not {fact.dtype} of {fact.shape}",
                [],
                "model_failed",
            )
        return aligned(array, fact.dtype)

    def _fact(self, library: Library, name: str) -> TensorFact:
        dtype = np.dtype(library.nptype(self._engine.get_tensor_dtype(name))).name
        shape = tuple(int(size) if size >= 0 else "batch" for size in self._engine.get_tensor_shape(name))
        if any(size == "batch" for size in shape[1:]):
            raise _failed(f"{name!r} of shape {shape} leaves another size open than its batch", [], "dynamic_shape")
        return TensorFact(name, dtype, shape)

    def _demand(self, granted: bool, what: str) -> None:
        if not granted:
            raise _failed(f"the engine fails: {what}", self._told, "model_failed")


def _most(facts: Sequence[TensorFact]) -> int:
    """The largest batch."""
    sizes = [fact.shape[0] for fact in facts if fact.shape and isinstance(fact.shape[0], int)]
    return min((size for size in sizes if isinstance(size, int)), default=MAX_BATCH)


def _free(device: Device, addresses: Sequence[int]) -> None:
    try:
        device.use()
        for address in addresses:
            device.free(address)
    except BundleMismatchError as error:  # of no use any more, whoever held it
        log.warning("engine.memory_kept", extra={"what": error.what})


def _failed(what: str, told: Sequence[str], reason: str) -> BundleMismatchError:
    said = f": {told[-1]}" if told else ""
    return BundleMismatchError(f"{what}{said}", reason=reason, fix=_FIX)
