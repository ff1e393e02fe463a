"""A bundle's engine on this machine: found in the cache, opened, held to the bundle's own answers. Builds nothing itself.

An engine is never trusted for being there: its seal must name the model, the library's version and the GPU (else it is refused with the
difference, and built again), and its golden answers must be the bundle's.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from outrider_engine.bundle import Bundle
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.golden import check_golden
from outrider_engine.model import Model, scales_by_batch
from outrider_engine.native.adapters import ADAPTERS, Adapter
from outrider_engine.native.cuda import Device, open_device
from outrider_engine.native.library import Library, load_library
from outrider_engine.native.native_session import NativeSession
from outrider_engine.native.target import Gpu, Target
from outrider_engine.providers import PassedOver
from outrider_engine.resident import Residents
from outrider_engine.session import Session
from outrider_wire.errors import BundleMismatchError
from outrider_wire.images import Decode, decode_picture
from outrider_wire.manifest import Variant
from outrider_wire.task import InputPart

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Native:
    """A library and a GPU that it can run engines on. Made by `open_native`, or by a test."""

    adapter: Adapter
    library: Library
    device: Device

    def facts(self, engine: bytes, target: Target) -> dict[str, str]:
        """What makes an engine another one than any that has replayed the certification items."""
        return {**target.facts, "engine": hashlib.sha256(engine).hexdigest()}

    def target(self, data: bytes) -> Target:
        """What an engine of that model is known by here. Raises `OperatorConfigError` where the library builds nothing for this GPU."""
        return target_of(data, self.adapter, self.library, self.device.gpu)


def open_native(name: str) -> Native:
    """The library of that name, and this machine's GPU.

    Raises:
        OperatorSetupError: one of them is missing; says which, and what to do.
        OperatorConfigError: the library builds nothing for this GPU.
    """
    adapter, library, device = ADAPTERS[name], load_library(name), open_device()
    adapter.gpu_for(device.gpu)
    return Native(adapter=adapter, library=library, device=device)


def target_of(data: bytes, adapter: Adapter, library: Library, gpu: Gpu) -> Target:
    """What an engine of the model ``data`` is known by, for that library and GPU."""
    return Target(
        model=hashlib.sha256(data).hexdigest(),
        library=adapter.name,
        version=library.__version__,
        gpu=adapter.gpu_for(gpu),
    )


def find_engine(folder: CacheFolder, target: Target) -> tuple[bytes, str]:
    """The engine for that target and '', from the cache; or nothing and why."""
    return folder.load(target.file, target.facts)


def prove(
    native: Native,
    bundle: Bundle,
    engine: bytes,
    *,
    variant: Variant,
    folder: CacheFolder,
    target: Target,
    bounds: Sequence[InputPart] = (),
    decode: Decode = decode_picture,
    passed_over: Sequence[PassedOver] = (),
    residents: Residents | None = None,
) -> Model:
    """Opens an engine, warms it, and holds it to the golden answers. Blocks.

    Under ``residents`` it may be let go between two inputs, and is then opened again from ``folder``: the very same bytes, or none.
    The model claims the bundle's certificate only where that was made with this very library.

    Raises:
        BundleMismatchError: it cannot be opened, fails, or answers otherwise than the bundle says (``bad_golden``).
    """
    proven = hashlib.sha256(engine).hexdigest()

    def load() -> NativeSession:
        found, why = find_engine(folder, target)
        if hashlib.sha256(found).hexdigest() != proven:
            raise BundleMismatchError(
                f"the engine is not there any more: {why or 'another was built'}",
                reason="engine_refused",
                fix="the model goes on answering on ONNX Runtime",
            )
        return _opened(native, found, folder, target, passed_over)

    name = f"{bundle.manifest.task} {bundle.manifest.version} ({target.library})"
    bounded = residents or Residents()
    session: Session = bounded.session(name, len(engine), load)
    apart = scales_by_batch(bundle.read(variant.file))
    model = Model(bundle=bundle, session=session, variant=variant, bounds=bounds, decode=decode, apart=apart)
    model.dry_run()
    if faults := check_golden(model):
        raise BundleMismatchError(
            f"the engine does not give the bundle's answers: {faults[0]}",
            reason="bad_golden",
            fix="the model goes on answering on ONNX Runtime",
        )
    return model


def _opened(
    native: Native, engine: bytes, folder: CacheFolder, target: Target, passed_over: Sequence[PassedOver]
) -> NativeSession:
    """An engine with the kernels of its last start, if they still fit; kept again once it has run."""
    name = target.file.replace("engine-", "kernels-", 1)
    compiled, _ = folder.load(name, target.facts)
    session = NativeSession(
        engine,
        adapter=native.adapter,
        library=native.library,
        device=native.device,
        compiled=compiled,
        passed_over=passed_over,
    )
    session.on_first_run(lambda kernels: _keep(folder, name, target, kernels, compiled))
    return session


def _keep(folder: CacheFolder, name: str, target: Target, kernels: bytes, before: bytes) -> None:
    if not kernels or kernels == before:
        return
    try:
        folder.store(name, target.facts, kernels)
    except OSError as error:
        log.warning("engine.kernels_not_kept", extra={"file": name, "what": str(error)})
