"""What runs one task beside what was certified: builds native engines while ONNX Runtime answers, replays, hands over. Answers nothing.

An engine rounds otherwise than what its bundle was certified on, and so does another precision or provider of ONNX Runtime. Each is put
to the bundle's certification items before it claims the certificate (`outrider_edge.replays`). A native engine that claims less takes
over only where the configuration says so: without a certificate, nothing that it answers is kept on the device.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec.structs import replace

from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.replays import Replays
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.graph_cache import this_processor
from outrider_engine.model import Model
from outrider_engine.native.building import BuildReport, EngineBuild, Progress
from outrider_engine.native.engines import Native, find_engine, open_native, prove
from outrider_engine.native.target import Target
from outrider_engine.resident import Residents
from outrider_engine.session import runtime_name
from outrider_wire.errors import BundleError, BundleMismatchError, OutriderError
from outrider_wire.images import Decode, decode_picture

log = logging.getLogger(__name__)

RETRY_S = 300.0
"""Before items that could not be fetched are asked for again."""
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
    replays: Replays
    residents: Residents = field(default_factory=Residents)
    """The bound of memory that engines share with all other models."""
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
        self._unreachable = False
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
            await self._renewed_plain()
            await self._first_of(self._runtime.plain)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._unreachable else None):
                    await self._changed.wait()

    async def _renewed_plain(self) -> None:
        """What ONNX Runtime runs claims the certificate by replay, where it cannot by itself."""
        runtime, plain = self._runtime, self._runtime.plain
        self._unreachable = False
        if not plain.certified or plain.manifest.replay_fault(plain.variant):
            return

        def tell(share: float) -> None:
            runtime.replaying = f"the certification items are being replayed: {share:.0%}"

        try:
            claiming = await self._terms.replays.renewed(plain, plain_facts(plain), step=runtime.between, tell=tell)
        except (OutriderError, OSError) as error:
            runtime.replaying = self._not_renewed(plain, error)
            return
        except Exception as error:  # as of an engine: a replay that breaks must not end the desk
            log.exception("replay.broken", extra={"task": self._task})
            runtime.replaying = f"{type(error).__name__}: {error}"
            return
        if runtime.renew(plain, claiming):
            runtime.replaying = ""

    async def _first_of(self, plain: Model) -> None:
        """The first wanted engine that can be had takes over; the others are passed over with their reason."""
        self._runtime.engines.clear()
        for name in self._terms.wanted:
            try:
                engine = await self._engine(name, plain)
            except (OutriderError, OSError) as error:
                if self._changed.is_set():
                    return
                self._pass_over(name, _said(error))
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
        """The proven engine, under the certificate if its replay lets it.

        Raises:
            OutriderError, OSError: it is not to be had, or would cost a certificate that holds now.
        """
        if fault := costs_certificate(plain, name, self._terms.when):
            raise BundleMismatchError(fault, reason="engine_uncertified")
        native = await asyncio.to_thread(self._terms.opened, name)
        data = await asyncio.to_thread(plain.bundle.read, plain.variant.file)
        target = native.target(data)
        found, why = await asyncio.to_thread(find_engine, self._folder, target)
        if not found:
            await self._built(name, target, data, why)
            found, why = await asyncio.to_thread(find_engine, self._folder, target)
        if not found:
            raise BundleMismatchError(f"what was built cannot be used: {why}", reason="engine_refused")
        engine = await asyncio.to_thread(
            prove,
            native,
            plain.bundle,
            found,
            variant=plain.bundle.variant(plain.variant.name),
            folder=self._folder,
            target=target,
            bounds=self._runtime.task.inputs,
            decode=self._terms.decode,
            passed_over=plain.session.passed_over,
            residents=self._terms.residents,
        )
        return await self._claiming(name, engine, plain, native.facts(found, target))

    async def _claiming(self, name: str, engine: Model, plain: Model, facts: Mapping[str, str]) -> Model:
        """The engine after its replay, while another model answers; as it is, where nothing is lost by that or it may be."""
        if not engine.certified or plain.manifest.replay_fault(engine.variant):
            return engine

        def tell(share: float) -> None:
            self._runtime.engines[name] = f"it replays the certification items: {share:.0%}"

        try:
            return await self._terms.replays.renewed(engine, facts, step=asyncio.to_thread, tell=tell)
        except (OutriderError, OSError) as error:
            said = self._not_renewed(engine, error)
            if plain.certified or self._terms.when == "always":
                return engine
            raise BundleMismatchError(f"it would cost the certificate: {said}", reason="engine_uncertified") from error

    def _not_renewed(self, model: Model, error: OutriderError | OSError) -> str:
        self._unreachable |= not isinstance(error, BundleError)
        said = _said(error)
        log.warning(
            "engine.uncertified",
            extra={
                "task": self._task,
                "provider": model.variant.provider,
                "precision": model.variant.precision,
                "why": said,
            },
        )
        return said

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
    """Why an engine of that name cannot take over from ``plain`` without losing the certificate that holds now; '' when it can.

    A replay may renew the certificate, where the bundle carries what it takes.
    """
    if when == "always" or plain.certified:
        return ""
    wanted = replace(plain.variant, provider=name)
    fault = plain.manifest.certificate_fault(wanted)
    if not fault or not (missing := plain.manifest.replay_fault(wanted)):
        return ""
    return f'it would cost the certificate: {fault}, and {missing}; runtime.engines = "always" allows it'


def plain_facts(plain: Model) -> dict[str, str]:
    """What makes a model on ONNX Runtime another engine than any that has replayed the certification items."""
    entry = plain.manifest.file(plain.variant.file)
    return {
        "model": entry.sha256 if entry else "",
        "library": runtime_name(),
        "provider": plain.variant.provider,
        "processor": this_processor(),
    }


def _said(error: OutriderError | OSError) -> str:
    return error.what if isinstance(error, OutriderError) else str(error)


async def _whole(work: Coroutine[Any, Any, BuildReport]) -> BuildReport:
    """Waits for the work's own end even when cancelled: the child that it started must be gone before this process says so."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # what it would have said is of no use any more
            await task
        raise
