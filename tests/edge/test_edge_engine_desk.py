"""Native engines in the agent: built while ONNX Runtime answers, handed over when proven, and let go of when they fail."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from edge_agents import write_config
from fake_tensorrt import ORIN, FakeDevice, FakeLibrary
from items_factory import certified_bundle

from factory import file_entry, make_bundle, make_task, parts_of, sure
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.engine_desk import EngineDesk, EngineTerms
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.local_api.views import task_view
from outrider_edge.replays import ItemShelf, ReplayBook, Replays
from outrider_edge.uplink.alone import AloneUplink
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.items import ITEMS_FILE
from outrider_engine.model import Model, load_model
from outrider_engine.native.adapters import ADAPTERS
from outrider_engine.native.build import build_engine
from outrider_engine.native.building import BuildReport, Progress
from outrider_engine.native.engines import Native
from outrider_engine.native.target import Target
from outrider_engine.resident import BASE_BYTES, Residents
from outrider_engine.session import Feeds, Session
from outrider_wire.errors import UnreachableError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, encode_manifest

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


class Elsewhere:
    """A session under another provider's name."""

    def __init__(self, inner: Session, provider: str) -> None:
        self._inner, self.provider = inner, provider
        self.inputs, self.passed_over = inner.inputs, ()

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """As the other."""
        return self._inner.run(feeds)


class Bench:
    """A task's runtime with a desk that works with the library that stands in."""

    def __init__(
        self,
        folder: Path,
        *,
        when: Any = "always",
        reason: str = "",
        shift: float = 0.0,
        bundle: Path | None = None,
        source: Any = None,
        provider: str = "CPUExecutionProvider",
        version: str = "10.3.0",
        residents: Residents | None = None,
    ) -> None:
        self.library = FakeLibrary(version, shift=shift)
        self.native = Native(adapter=ADAPTERS["tensorrt"], library=self.library, device=FakeDevice(ORIN))
        self.plain = load_model(bundle or make_bundle(folder / "bundle", TASK), bounds=TASK.inputs)
        if provider != self.plain.variant.provider:
            self.plain = Model(
                bundle=self.plain.bundle,
                session=Elsewhere(self.plain.session, provider),
                variant=self.plain.bundle.variant(),
                bounds=TASK.inputs,
            )
        self.runtime = TaskRuntime(task=TASK, model=self.plain)
        self.builds = 0

        def build(target: Target, where: Path, data: bytes) -> HereBuild:
            self.builds += 1
            return HereBuild(self.native, target, where, data, reason)

        terms = EngineTerms(
            wanted=("tensorrt",) if provider == "CPUExecutionProvider" else (),
            when=when,
            turn=asyncio.Lock(),
            replays=Replays(
                book=ReplayBook(folder / "replays"), shelf=ItemShelf(folder / "replays", source or AloneUplink())
            ),
            residents=residents or Residents(),
            opened=lambda name: self.native,
            build=build,
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
    assert "carries no certification items" in bench.runtime.engines["tensorrt"]
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


async def test_an_engine_that_passes_its_replay_takes_over_under_the_certificate(tmp_path: Path) -> None:
    bundle = certified_bundle(tmp_path / "bundle", TASK)
    for builds in (1, 0):
        bench = Bench(tmp_path, when="certified", bundle=bundle)
        bench.desk.start()
        await until(lambda bench=bench: bench.runtime.model is not bench.plain)
        assert (bench.provider, bench.builds) == ("tensorrt", builds)
        assert (bench.runtime.model.certified, bench.runtime.model.certificate_id) == ("", bench.plain.certificate_id)
        assert bench.runtime.model.replayed is not None
        assert (bench.runtime.model.replayed.identical, bench.runtime.model.replayed.k) == (True, 2)
        await bench.desk.stop()


@pytest.mark.parametrize(("when", "runs"), [("certified", "CPUExecutionProvider"), ("always", "tensorrt")])
async def test_an_engine_that_fails_its_replay_answers_nothing_under_the_certificate(
    tmp_path: Path, when: str, runs: str
) -> None:
    """It decides otherwise in one row, and the rows do not carry a second test."""
    bench = Bench(tmp_path, when=when, shift=1e-3, bundle=certified_bundle(tmp_path / "bundle", TASK, wrong=9))
    bench.desk.start()
    await until(
        lambda: (
            bench.provider == runs
            and (when == "always" or "replay failed" in bench.runtime.engines.get("tensorrt", ""))
        )
    )
    assert bool(bench.runtime.model.certified) == (runs == "tensorrt")
    await bench.desk.stop()
    [book] = (tmp_path / "replays").iterdir()
    assert b'"identical": false' in book.read_bytes()


async def test_each_replay_of_the_same_rows_pays_for_those_before_it(tmp_path: Path) -> None:
    bundle = certified_bundle(tmp_path / "bundle", TASK)
    for version, k in (("10.3.0", 2), ("10.4.0", 3), ("10.3.0", 2), ("10.5.0", 4)):
        bench = Bench(tmp_path, when="certified", bundle=bundle, version=version)
        bench.desk.start()
        await until(lambda bench=bench: bench.runtime.model is not bench.plain)
        assert bench.runtime.model.replayed is not None
        assert bench.runtime.model.replayed.k == k
        await bench.desk.stop()
        for kept in (tmp_path / "cache").iterdir():
            kept.unlink()


async def test_another_provider_of_onnx_runtime_is_uncertified_until_its_replay_has_passed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, bundle=certified_bundle(tmp_path / "bundle", TASK), provider="CUDAExecutionProvider")
    assert bench.runtime.answer(parts_of(sure(0))).model.certified
    bench.desk.start()
    await until(lambda: not bench.runtime.model.certified)
    answer = await bench.runtime.ask(parts_of(sure(0)))
    assert (answer.model.certified, answer.verdict.accepted, bench.runtime.replaying) == ("", True, "")
    await bench.desk.stop()


async def test_items_that_are_not_here_are_fetched_and_let_go(tmp_path: Path) -> None:
    bundle = certified_bundle(tmp_path / "bundle", TASK)
    data = (bundle / ITEMS_FILE).read_bytes()
    (bundle / ITEMS_FILE).unlink()

    class Source:
        reachable = False

        async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
            """Once it is reachable."""
            if not self.reachable:
                raise UnreachableError("nobody answers", reason="unreachable")
            await asyncio.to_thread(to.write_bytes, data)
            assert size == len(data)
            return to

    source = Source()
    bench = Bench(tmp_path, when="certified", bundle=bundle, source=source)
    bench.desk.start()
    await until(lambda: "nobody answers" in bench.runtime.engines.get("tensorrt", ""))
    await bench.desk.stop()
    source.reachable = True
    bench = Bench(tmp_path, when="certified", bundle=bundle, source=source)
    bench.desk.start()
    await until(lambda: bench.runtime.model is not bench.plain)
    assert bench.runtime.model.certificate_id
    await bench.desk.stop()
    assert [path.suffix for path in (tmp_path / "replays").iterdir()] == [".json"]


async def test_a_damaged_record_of_replays_allows_none(tmp_path: Path) -> None:
    bundle = certified_bundle(tmp_path / "bundle", TASK)
    certificate = load_model(bundle).manifest.certificate
    assert certificate is not None
    (tmp_path / "replays").mkdir()
    (tmp_path / "replays" / f"{certificate.data_digest[:32]}.json").write_bytes(b"[")
    bench = Bench(tmp_path, when="certified", bundle=bundle)
    bench.desk.start()
    await until(lambda: "nobody knows how often" in bench.runtime.engines.get("tensorrt", ""))
    await bench.desk.stop()


async def test_items_without_one_of_the_models_tensors_end_a_replay_and_not_the_desk(tmp_path: Path) -> None:
    bundle = certified_bundle(tmp_path / "bundle", TASK)
    kept = msgspec.msgpack.decode((bundle / ITEMS_FILE).read_bytes())
    del kept["tensors"]["words"]
    data = msgspec.msgpack.encode(kept)
    (bundle / ITEMS_FILE).write_bytes(data)
    manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
    files = [file for file in manifest.files if file.path != ITEMS_FILE]
    files.append(file_entry(ITEMS_FILE, data, "certification"))
    (bundle / MANIFEST_FILE).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files)))
    bench = Bench(tmp_path, bundle=bundle, provider="CUDAExecutionProvider")
    bench.desk.start()
    await until(lambda: "tensors" in bench.runtime.replaying)
    assert bench.runtime.answer(parts_of(sure(0))).model.certified
    await bench.desk.stop()


async def test_what_claims_by_a_replay_answers_one_by_one_as_the_items_were_answered(tmp_path: Path) -> None:
    """Kernels of a GPU are chosen by the size of the batch, and round otherwise in another."""
    bench = Bench(tmp_path, when="certified", bundle=certified_bundle(tmp_path / "bundle", TASK))
    assert not bench.plain.one_by_one
    bench.desk.start()
    await until(lambda: bench.runtime.model is not bench.plain)
    assert (bench.runtime.model.certified, bench.runtime.model.one_by_one) == ("", True)
    await bench.desk.stop()


async def test_an_engine_counts_under_the_bound_of_memory_and_comes_back_the_same(tmp_path: Path) -> None:
    residents_bytes = 64 << 20
    residents = Residents(residents_bytes)
    bench = Bench(tmp_path, residents=residents)
    bench.desk.start()
    await until(lambda: bench.runtime.model is not bench.plain)
    assert residents.taken_bytes > BASE_BYTES
    other = residents.session("other", (residents_bytes - BASE_BYTES) // 2, lambda: bench.plain.session)
    assert (other.provider, bench.runtime.model.resident) == ("CPUExecutionProvider", False)
    assert bench.provider == "tensorrt"
    await bench.desk.stop()


async def test_an_engine_above_the_bound_of_memory_is_passed_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path, residents=Residents(1 << 20))
    bench.desk.start()
    await until(lambda: "models_mb" in bench.runtime.engines.get("tensorrt", ""))
    assert bench.provider == "CPUExecutionProvider"
    await bench.desk.stop()
