"""Native engines in the agent: built while ONNX Runtime answers, handed over when proven, and let go of when they fail."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edge_agents import write_config
from fake_tensorrt import ORIN, FakeDevice, FakeLibrary

from factory import make_bundle, make_task, parts_of, sure
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.engine_desk import EngineDesk, EngineTerms
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.local_api.views import task_view
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.model import load_model
from outrider_engine.native.adapters import ADAPTERS
from outrider_engine.native.build import build_engine
from outrider_engine.native.building import BuildReport, Progress
from outrider_engine.native.engines import Native
from outrider_engine.native.target import Target

TASK = make_task()


class HereBuild:
    """A build by the library that stands in, in this process; ``ok`` False: it ends in that reason."""

    def __init__(self, native: Native, target: Target, folder: Path, data: bytes, reason: str) -> None:
        self._native, self._target, self._folder, self._data = native, target, folder, data
        self._reason = reason

    def run(self, progress: Progress) -> BuildReport:
        """Builds."""
        if self._reason:
            return BuildReport(ok=False, reason=self._reason, detail="the build was killed, as for want of memory")
        native = self._native
        built = build_engine(
            self._data,
            self._target,
            adapter=native.adapter,
            library=native.library,
            tell=lambda phase, share: progress(share, phase),
        )
        CacheFolder(self._folder).store(self._target.file, self._target.facts, built.engine)
        return BuildReport(ok=True, bytes=len(built.engine))

    def stop(self) -> None:
        """It is too short to stop."""


class Bench:
    """A task's runtime with a desk that works with the library that stands in."""

    def __init__(self, folder: Path, *, when: Any = "always", reason: str = "", shift: float = 0.0) -> None:
        self.library = FakeLibrary(shift=shift)
        self.native = Native(adapter=ADAPTERS["tensorrt"], library=self.library, device=FakeDevice(ORIN))
        self.plain = load_model(make_bundle(folder / "bundle", TASK), bounds=TASK.inputs)
        self.runtime = TaskRuntime(task=TASK, model=self.plain)
        self.builds = 0

        def build(target: Target, where: Path, data: bytes) -> HereBuild:
            self.builds += 1
            return HereBuild(self.native, target, where, data, reason)

        terms = EngineTerms(
            wanted=("tensorrt",), when=when, turn=asyncio.Lock(), opened=lambda name: self.native, build=build
        )
        self.desk = EngineDesk(runtime=self.runtime, folder=CacheFolder(folder / "cache"), terms=terms)

    @property
    def provider(self) -> str:
        """What answers now."""
        return self.runtime.answer(parts_of(sure(2))).model.variant.provider


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what it waits for raises no event
            await asyncio.sleep(0.01)


async def test_an_engine_takes_over_and_the_next_start_builds_nothing(tmp_path: Path) -> None:
    for builds in (1, 0):
        bench = Bench(tmp_path)
        bench.desk.start()
        await until(lambda bench=bench: bench.runtime.model is not bench.plain)
        assert (bench.provider, bench.builds, bench.runtime.engines) == ("tensorrt", builds, {})
        assert bench.runtime.plain is bench.plain
        await bench.desk.stop()


async def test_an_engine_that_would_cost_the_certificate_is_not_even_built(tmp_path: Path) -> None:
    bench = Bench(tmp_path, when="certified")
    assert bench.plain.certificate_id
    bench.desk.start()
    await until(lambda: bench.runtime.engines)
    assert "would cost the certificate" in bench.runtime.engines["tensorrt"]
    assert (bench.provider, bench.builds) == ("CPUExecutionProvider", 0)
    await bench.desk.stop()


@pytest.mark.parametrize(
    ("broken", "said"), [({"reason": "out_of_memory"}, "want of memory"), ({"shift": 0.5}, "bundle's answers")]
)
async def test_an_engine_that_cannot_be_had_is_passed_over_with_its_reason(
    tmp_path: Path, broken: dict[str, Any], said: str
) -> None:
    bench = Bench(tmp_path, **broken)
    bench.desk.start()
    await until(lambda: said in bench.runtime.engines.get("tensorrt", ""))
    assert bench.provider == "CPUExecutionProvider"
    await bench.desk.stop()


async def test_an_engine_that_fails_on_an_input_gives_way_and_the_input_is_answered(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.desk.start()
    await until(lambda: bench.runtime.model is not bench.plain)
    bench.library.fails = True
    answer = bench.runtime.answer(parts_of(sure(2)))
    assert (answer.label, answer.model) == ("blue", bench.plain)
    assert (bench.runtime.failed, bench.runtime.model) == (0, bench.plain)
    assert "failed on an input" in bench.runtime.engines["tensorrt"]
    await bench.desk.stop()


async def test_a_new_release_is_answered_by_onnx_runtime_until_its_own_engine_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.desk.start()
    await until(lambda: bench.runtime.model is not bench.plain)
    newer = load_model(make_bundle(tmp_path / "newer", TASK, seed=1), bounds=TASK.inputs)
    bench.runtime.swap(newer)
    assert bench.provider == "CPUExecutionProvider"
    await until(lambda: bench.runtime.model is not newer)
    assert (bench.runtime.model.digest, bench.builds) == (newer.digest, 2)
    await bench.desk.stop()


async def test_a_device_without_the_library_says_so_and_answers(tmp_path: Path) -> None:
    extra = '[runtime]\nproviders = ["tensorrt"]\nengines = "always"\n'
    async with serving(load_edge_config(write_config(tmp_path, extra=extra))) as served:
        [runtime] = served.agent.runtimes.values()
        await until(lambda: runtime.engines)
        view = task_view(runtime, served.agent.promise(runtime))
        assert (view.provider, list(view.passed_over)) == ("CPUExecutionProvider", ["tensorrt"])
        assert (await served.agent.submit("colours", parts_of(sure(2)))).label == "blue"
