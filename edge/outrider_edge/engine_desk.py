"""Native engines of one task: builds what is wanted while ONNX Runtime answers, and hands it over when it is proven. Answers nothing.

An engine rounds otherwise than what its bundle was certified on. So one takes over only where that costs no certificate, or where the
configuration says that it may: without a certificate, nothing that it answers is kept on the device.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec.structs import replace

from outrider_edge.config import RuntimeSettings
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.model import Model
from outrider_engine.native.building import BuildReport, EngineBuild, Progress
from outrider_engine.native.engines import Native, find_engine, open_native, prove
from outrider_engine.native.target import Target
from outrider_engine.session import RunOptions, graph_cache
from outrider_wire.errors import BundleMismatchError, OutriderError
from outrider_wire.images import Decode, decode_picture

log = logging.getLogger(__name__)

_SAID_EVERY = 0.1
"""Share of a build after which the log says again how far it is."""


class Build(Protocol):
    """As `outrider_engine.native.building.EngineBuild`."""

    def run(self, progress: Progress) -> BuildReport:
        """Builds; blocks."""
        ...

    def stop(self) -> None:
        """Ends it."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineTerms:
    """What is wanted, and how it is come by."""

    wanted: tuple[str, ...]
    """In order of preference."""
    when: Literal["certified", "always"]
    """As `outrider_edge.config.RuntimeSettings.engines`."""
    decode: Decode = decode_picture
    turn: asyncio.Lock
    """Held while one is built: a device has no room for two."""
    opened: Callable[[str], Native] = open_native
    build: Callable[[Target, Path, bytes], Build] = lambda target, folder, data: EngineBuild(
        target=target, folder=folder, data=data
    )


class EngineDesk:
    """The engines of one task. Runs on one event loop; builds in a child process, proves in a thread."""

    def __init__(self, *, runtime: TaskRuntime, folder: CacheFolder, terms: EngineTerms) -> None:
        self._runtime = runtime
        self._folder = folder
        self._terms = terms
        self._changed = asyncio.Event()
        self._build: Build | None = None
        self._driver: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins with the model in use, and again after each swap."""
        self._runtime.on_swap = self._swapped
        self._driver = asyncio.create_task(self._drive())

    async def stop(self) -> None:
        """Ends a build under way; what is in the cache stays."""
        self._runtime.on_swap = lambda: None
        if self._driver is not None:
            self._driver.cancel()
            self._end_build()
            await asyncio.gather(self._driver, return_exceptions=True)

    def _swapped(self) -> None:
        self._changed.set()
        self._end_build()

    def _end_build(self) -> None:
        if self._build is not None:
            self._build.stop()

    async def _drive(self) -> None:
        while True:
            self._changed.clear()
            await self._first_of(self._runtime.plain)
            await self._changed.wait()

    async def _first_of(self, plain: Model) -> None:
        """The first wanted engine that can be had takes over; the others are passed over with their reason."""
        self._runtime.engines.clear()
        for name in self._terms.wanted:
            try:
                engine = await self._engine(name, plain)
            except OutriderError as error:
                if self._changed.is_set():
                    return
                self._pass_over(name, error.what)
                continue
            except Exception as error:  # a foreign library: logged and reported; ONNX Runtime goes on answering
                log.exception("engine.broken", extra={"task": self._task, "engine": name})
                self._pass_over(name, f"{type(error).__name__}: {error}")
                continue
            if self._runtime.take_over(engine, plain):
                self._runtime.engines.pop(name, None)
                log.info("engine.took_over", extra={"task": self._task, "engine": name, "fault": engine.certified})
            return

    async def _engine(self, name: str, plain: Model) -> Model:
        if fault := costs_certificate(plain, name, self._terms.when):
            raise BundleMismatchError(fault, reason="engine_uncertified")
        native = await asyncio.to_thread(self._terms.opened, name)
        data = await asyncio.to_thread(plain.bundle.read, plain.bundle.variant().file)
        target = native.target(data)
        engine, why = await asyncio.to_thread(find_engine, self._folder, target)
        if not engine:
            await self._built(name, target, data, why)
            engine, why = await asyncio.to_thread(find_engine, self._folder, target)
        if not engine:
            raise BundleMismatchError(f"what was built cannot be used: {why}", reason="engine_refused")
        return await asyncio.to_thread(
            prove,
            native,
            plain.bundle,
            engine,
            folder=self._folder,
            target=target,
            bounds=self._runtime.task.inputs,
            decode=self._terms.decode,
            passed_over=plain.session.passed_over,
        )

    async def _built(self, name: str, target: Target, data: bytes, why: str) -> None:
        async with self._terms.turn:
            if self._changed.is_set():
                raise BundleMismatchError("another model is in use by now", reason="stopped")
            log.info("engine.building", extra={"task": self._task, "engine": name, "because": why})
            self._build = self._terms.build(target, self._folder.folder, data)
            try:
                report = await _whole(asyncio.to_thread(self._build.run, self._teller(name)))
            finally:
                self._build = None
        if not report.ok:
            raise BundleMismatchError(report.detail, reason=report.reason)
        log.info(
            "engine.built",
            extra={"task": self._task, "engine": name, "bytes": report.bytes, "seconds": report.seconds},
        )

    def _teller(self, name: str) -> Progress:
        said = 0.0

        def tell(share: float, phase: str) -> None:
            nonlocal said
            self._runtime.engines[name] = f"it is being built: {share:.0%} ({phase})"
            if share >= said + _SAID_EVERY:
                said = share
                log.info(
                    "engine.progress",
                    extra={"task": self._task, "engine": name, "share": round(share, 2), "phase": phase},
                )

        return tell

    def _pass_over(self, name: str, why: str) -> None:
        self._runtime.engines[name] = why
        log.warning("engine.passed_over", extra={"task": self._task, "engine": name, "reason": why})

    @property
    def _task(self) -> str:
        return self._runtime.task.name


def costs_certificate(plain: Model, name: str, when: Literal["certified", "always"]) -> str:
    """Why an engine of that name may not take over from ``plain``: it could not claim the certificate that holds now; '' when it may."""
    if when == "always" or plain.certified:
        return ""
    fault = plain.manifest.certificate_fault(replace(plain.variant, provider=name))
    return f'it would cost the certificate: {fault}; runtime.engines = "always" allows it' if fault else ""


def run_options(settings: RuntimeSettings, cache: CacheFolder) -> RunOptions:
    """How ONNX Runtime runs a device's models, with their optimised graphs kept in ``cache``. Errors as `graph_cache`."""
    return RunOptions(
        threads=settings.threads,
        arena=settings.arena,
        spinning=settings.spinning,
        io_binding=settings.io_binding,
        graphs=graph_cache(cache),
    )


async def _whole(work: Coroutine[Any, Any, BuildReport]) -> BuildReport:
    """Waits for the work's own end even when cancelled: the child that it started must be gone before this process says so."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # what it would have said is of no use any more
            await task
        raise
