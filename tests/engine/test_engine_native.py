"""Engines behind the seam: built, opened, run, refused, and certified anew, by a library that stands in for TensorRT's two."""

from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import ORIN, FakeDevice, FakeLibrary

from factory import LABELS, make_bundle, onnx_bytes, parts_of, sure
from outrider_engine.bundle import Bundle, open_bundle
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.model import load_model
from outrider_engine.native.adapters import ADAPTERS
from outrider_engine.native.build import build_engine
from outrider_engine.native.engines import Native, find_engine, prove, target_of
from outrider_engine.native.native_session import NativeSession
from outrider_engine.native.target import MAX_BATCH, Gpu
from outrider_engine.session import OrtSession
from outrider_wire.errors import BundleMismatchError, OperatorConfigError

MODEL = onnx_bytes(LABELS)
GEFORCE = Gpu(name="NVIDIA GeForce RTX 3060", capability="sm86")
KINDS = pytest.mark.parametrize(("name", "gpu"), [("tensorrt", ORIN), ("tensorrt_rtx", GEFORCE)])


def native_of(name: str, gpu: Gpu, library: FakeLibrary | None = None) -> Native:
    return Native(adapter=ADAPTERS[name], library=library or FakeLibrary(), device=FakeDevice(gpu))


def built(native: Native, data: bytes = MODEL) -> bytes:
    target = native.target(data)
    done = build_engine(data, target, adapter=native.adapter, library=native.library, tell=lambda *_: None)
    return done.engine


def shelved(native: Native, folder: Path, bundle: Bundle) -> CacheFolder:
    """A cache that holds the bundle's engine."""
    cache, data = CacheFolder(folder), bundle.read(bundle.variant().file)
    target = native.target(data)
    cache.store(target.file, target.facts, built(native, data))
    return cache


@KINDS
def test_an_engine_answers_as_the_model_that_it_was_built_of(name: str, gpu: Gpu) -> None:
    native = native_of(name, gpu)
    session = NativeSession(built(native), adapter=native.adapter, library=native.library, device=native.device)
    rng = np.random.default_rng(0)
    feeds = {"pixels": rng.random((5, 3, 32, 32), np.float32), "words": rng.random((5, 96), np.float32)}
    assert session.provider == name
    assert {fact.name: fact.shape for fact in session.inputs} == {
        "pixels": ("batch", 3, 32, 32),
        "words": ("batch", 96),
    }
    for output, array in OrtSession(MODEL).run(feeds).items():
        np.testing.assert_array_equal(session.run(feeds)[output], array)


def test_a_batch_larger_than_an_engine_takes_is_run_in_turn() -> None:
    native, rows = native_of("tensorrt", ORIN), MAX_BATCH + 3
    session = NativeSession(built(native), adapter=native.adapter, library=native.library, device=native.device)
    feeds = {"pixels": np.ones((rows, 3, 32, 32), np.float32), "words": np.zeros((rows, 96), np.float32)}
    assert session.run(feeds)["logits"].shape == (rows, 3)


@pytest.mark.parametrize(
    "feeds",
    [
        {"pixels": np.ones((1, 3, 32, 31), np.float32), "words": np.zeros((1, 96), np.float32)},
        {"pixels": np.ones((1, 3, 32, 32), np.float64), "words": np.zeros((1, 96), np.float32)},
        {"pixels": np.ones((2, 3, 32, 32), np.float32), "words": np.zeros((1, 96), np.float32)},
        {"pixels": np.ones((0, 3, 32, 32), np.float32), "words": np.zeros((0, 96), np.float32)},
        {"words": np.zeros((1, 96), np.float32)},
    ],
)
def test_tensors_that_do_not_fit_never_reach_the_gpu(feeds: dict[str, np.ndarray]) -> None:
    native = native_of("tensorrt", ORIN)
    session = NativeSession(built(native), adapter=native.adapter, library=native.library, device=native.device)
    with pytest.raises(BundleMismatchError) as refusal:
        session.run(feeds)
    assert refusal.value.reason == "model_failed"


def test_a_session_gives_its_memory_on_the_gpu_back() -> None:
    native, device = native_of("tensorrt", ORIN), FakeDevice()
    session = NativeSession(built(native), adapter=native.adapter, library=native.library, device=device)
    assert len(device.memory) == 4
    del session
    assert device.memory == {}


def test_a_gpu_that_is_full_is_an_error_and_nothing_stays_allocated() -> None:
    native, device = native_of("tensorrt", ORIN), FakeDevice(free_bytes=1000)
    with pytest.raises(BundleMismatchError) as refusal:
        NativeSession(built(native), adapter=native.adapter, library=native.library, device=device)
    assert refusal.value.reason == "out_of_memory"
    assert device.memory == {}


def test_each_library_is_set_up_in_its_own_way() -> None:
    jetson, rtx = native_of("tensorrt", ORIN), native_of("tensorrt_rtx", GEFORCE)
    told: list[float] = []
    target = jetson.target(MODEL)
    done = build_engine(
        MODEL, target, adapter=jetson.adapter, library=jetson.library, saved=b"old", tell=lambda _, s: told.append(s)
    )
    built(rtx)
    [on_jetson], [for_rtx] = jetson.library.configs, rtx.library.configs  # type: ignore[attr-defined]  # the fake's
    assert (on_jetson.timing.data, done.saved, on_jetson.capability) == (b"old", b"oldt", None)
    assert (for_rtx.timing, for_rtx.num_compute_capabilities, for_rtx.capability) == (None, 1, 86)
    assert on_jetson.cleared == for_rtx.cleared == ["TF32"]
    assert for_rtx.profiles[0].shapes["words"] == ((1, 96), (1, 96), (MAX_BATCH, 96))
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_a_jetsons_engine_is_for_that_gpu_and_an_rtx_engine_for_all_of_its_capability() -> None:
    library = FakeLibrary()
    assert target_of(MODEL, ADAPTERS["tensorrt"], library, ORIN).facts["gpu"] == "Orin sm87"
    assert target_of(MODEL, ADAPTERS["tensorrt_rtx"], library, GEFORCE).facts["gpu"] == "sm86"
    with pytest.raises(OperatorConfigError, match="a Jetson's own engines are built by tensorrt"):
        target_of(MODEL, ADAPTERS["tensorrt_rtx"], library, ORIN)
    with pytest.raises(OperatorConfigError, match="on the GPU that they run on only"):
        target_of(MODEL, ADAPTERS["tensorrt"], library, Gpu("", "sm87"))


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (("tensorrt", ORIN, "10.3.0"), ("tensorrt", ORIN, "10.7.0"), "version 10.3.0, not 10.7.0"),
        (("tensorrt", ORIN, "10.3.0"), ("tensorrt", Gpu("Thor", "sm110"), "10.3.0"), "gpu Orin sm87, not Thor sm110"),
        (("tensorrt_rtx", GEFORCE, "1.7"), ("tensorrt_rtx", Gpu("RTX 4090", "sm89"), "1.7"), "gpu sm86, not sm89"),
    ],
)
def test_an_engine_of_another_version_or_gpu_is_refused_and_says_which(
    tmp_path: Path, then: tuple[str, Gpu, str], now: tuple[str, Gpu, str], said: str
) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    before, after = (native_of(name, gpu, FakeLibrary(version)) for name, gpu, version in (then, now))
    cache = shelved(before, tmp_path / "cache", bundle)
    target = after.target(bundle.read("model.onnx"))
    found, why = find_engine(cache, target)
    assert (found, said in why) == (b"", True), why
    cache.store(target.file, target.facts, b"built again")
    assert find_engine(cache, target) == (b"built again", "")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # in the place of the old one


def test_an_engine_of_another_model_is_none_of_this_one(tmp_path: Path) -> None:
    native = native_of("tensorrt", ORIN)
    one, other = (open_bundle(make_bundle(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    cache = shelved(native, tmp_path / "cache", one)
    assert find_engine(cache, native.target(other.read("model.onnx")))[0] == b""


def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    native, bundle = native_of("tensorrt", ORIN), open_bundle(make_bundle(tmp_path / "bundle"))
    cache = shelved(native, tmp_path / "cache", bundle)
    target = native.target(bundle.read("model.onnx"))
    path = tmp_path / "cache" / target.file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    found, why = find_engine(cache, target)
    assert (found, why) == (b"", "damaged: its bytes are not the ones that were sealed")


def test_what_a_library_refuses_despite_its_seal_is_an_error_with_the_librarys_word() -> None:
    native = native_of("tensorrt", ORIN)
    with pytest.raises(BundleMismatchError, match="another version") as refusal:
        NativeSession(
            built(native), adapter=native.adapter, library=FakeLibrary("10.7.0"), device=FakeDevice(), compiled=b""
        )
    assert refusal.value.reason == "engine_refused"


@KINDS
def test_a_proven_engine_answers_and_claims_no_certificate_of_another_provider(
    tmp_path: Path, name: str, gpu: Gpu
) -> None:
    native, bundle = native_of(name, gpu), open_bundle(make_bundle(tmp_path / "bundle"))
    cache = shelved(native, tmp_path / "cache", bundle)
    target = native.target(bundle.read("model.onnx"))
    proven = prove(native, bundle, find_engine(cache, target)[0], variant=bundle.variant(), folder=cache, target=target)
    said = proven.infer([proven.prepare(parts_of(sure(2)))])[0]
    assert proven.labels[int(said.probabilities.argmax())] == "blue"
    assert proven.variant.provider == name
    assert proven.certificate_id == ""
    assert f"{name} runs" in proven.certified
    assert load_model(bundle).certified == ""  # the same bundle on the provider that it was certified on


def test_an_engine_that_answers_otherwise_than_the_golden_examples_is_not_used(tmp_path: Path) -> None:
    native = native_of("tensorrt", ORIN, FakeLibrary(shift=0.5))
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    cache = shelved(native, tmp_path / "cache", bundle)
    target = native.target(bundle.read("model.onnx"))
    with pytest.raises(BundleMismatchError) as refusal:
        prove(native, bundle, find_engine(cache, target)[0], variant=bundle.variant(), folder=cache, target=target)
    assert refusal.value.reason == "bad_golden"


def test_kernels_that_rtx_compiled_are_kept_for_the_next_start(tmp_path: Path) -> None:
    native, bundle = native_of("tensorrt_rtx", GEFORCE), open_bundle(make_bundle(tmp_path / "bundle"))
    cache = shelved(native, tmp_path / "cache", bundle)
    target = native.target(bundle.read("model.onnx"))
    prove(native, bundle, find_engine(cache, target)[0], variant=bundle.variant(), folder=cache, target=target)
    [kept] = [path for path in (tmp_path / "cache").iterdir() if path.name.startswith("kernels-")]
    assert cache.load(kept.name, target.facts) == (b"kernels", "")
