"""An engine's build in a process of its own: real builds with TensorRT for RTX where it is installed, and every way a build can end."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from absent import skip_without

from factory import LABELS, make_bundle, onnx_bytes
from outrider_engine.bundle import open_bundle
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.native.adapters import ADAPTERS
from outrider_engine.native.building import EngineBuild
from outrider_engine.native.engines import find_engine, open_native, prove, target_of
from outrider_engine.native.library import load_library
from outrider_engine.native.target import Gpu, Target
from outrider_wire.errors import OperatorSetupError

MODEL = onnx_bytes(LABELS)
SM86 = Gpu(name="", capability="sm86")
OTHERS = Target(model="0" * 64, library="tensorrt_rtx", version="0", gpu=SM86)


def rtx_target(data: bytes = MODEL, gpu: Gpu = SM86) -> Target:
    """For the library that is installed here, or the test is skipped."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        skip_without("tensorrt_rtx", "pip install tensorrt-rtx-cu12")
    return target_of(data, ADAPTERS["tensorrt_rtx"], load_library("tensorrt_rtx"), gpu)


def child(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["sm86", "sm89", "sm120"])
def test_tensorrt_for_rtx_builds_an_engine_for_a_gpu_that_is_not_here(tmp_path: Path, capability: str) -> None:
    target, told = rtx_target(gpu=Gpu("", capability)), []
    report = EngineBuild(target=target, folder=tmp_path / "cache", data=MODEL).run(
        lambda share, phase: told.append((share, phase))
    )
    assert (report.ok, report.detail) == (True, "")
    engine, why = CacheFolder(tmp_path / "cache").load(target.file, target.facts)
    assert (len(engine), why) == (report.bytes, "")
    assert told, "no progress was told"
    assert [share for share, _ in told] == sorted(share for share, _ in told)


@pytest.mark.slow
def test_turing_has_no_float32_products_in_tensorrt_for_rtx_and_the_build_says_so(tmp_path: Path) -> None:
    report = EngineBuild(target=rtx_target(gpu=Gpu("", "sm75")), folder=tmp_path / "cache", data=MODEL).run()
    assert (report.ok, report.reason) == (False, "engine_refused")
    assert "FP32 GEMM is not supported" in report.detail


@pytest.mark.slow
def test_an_engine_of_another_version_of_the_real_library_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    target = rtx_target(bundle.read("model.onnx"))
    assert EngineBuild(target=target, folder=tmp_path / "cache", data=bundle.read("model.onnx")).run().ok
    folder = CacheFolder(tmp_path / "cache")
    assert find_engine(folder, target)[1] == ""
    newer = Target(model=target.model, library=target.library, version="99.0", gpu=target.gpu)
    found, why = find_engine(folder, newer)
    assert (found, why) == (b"", f"it was made for version {target.version}, not 99.0")


@pytest.mark.slow
def test_a_model_that_the_real_library_cannot_read_is_refused_with_its_word(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    info, node = helper.make_tensor_value_info, helper.make_node("Det", ["a"], ["b"])
    graph = helper.make_graph(
        [node], "g", [info("a", TensorProto.FLOAT, [1, 2, 2])], [info("b", TensorProto.FLOAT, [1])]
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    report = EngineBuild(target=rtx_target(data), folder=tmp_path / "cache", data=data).run()
    assert (report.ok, report.reason) == (False, "engine_refused")
    assert "Det" in report.detail


@pytest.mark.slow
def test_outriders_int8_models_are_refused_by_the_real_library_in_words(tmp_path: Path) -> None:
    import numpy as np

    from outrider_export.quantize import to_int8

    rng = np.random.default_rng(0)
    feeds = [{"pixels": rng.random((8, 3, 32, 32), np.float32), "words": rng.random((8, 96), np.float32)}]
    data = to_int8(MODEL, feeds, logits="logits", exact=["support"], judged=feeds).data
    report = EngineBuild(target=rtx_target(data), folder=tmp_path / "cache", data=data).run()
    assert (report.ok, report.reason) == (False, "engine_refused"), report
    assert "tensorrt_rtx" in report.detail


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_real_engine_on_a_real_gpu_gives_the_bundles_golden_answers(tmp_path: Path, name: str) -> None:
    try:
        native = open_native(name)
    except OperatorSetupError as error:
        skip_without(f"{name} on a GPU", error.what)
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    data = bundle.read("model.onnx")
    target = native.target(data)
    report = EngineBuild(target=target, folder=tmp_path / "cache", data=data).run()
    assert (report.ok, report.detail) == (True, "")
    folder = CacheFolder(tmp_path / "cache")
    proven = prove(
        native, bundle, find_engine(folder, target)[0], variant=bundle.variant(), folder=folder, target=target
    )
    assert proven.variant.provider == name


def test_a_library_that_is_not_here_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(OperatorSetupError, match=r"no_such_library is not installed") as refusal:
        load_library("no_such_library")
    assert refusal.value.reason == "no_library"


def test_a_build_without_its_library_ends_in_that_reason(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    target = Target(model="0" * 64, library="tensorrt", version="10.3.0", gpu=Gpu("Orin", "sm87"))
    report = EngineBuild(target=target, folder=tmp_path / "cache", data=MODEL).run()
    assert (report.ok, report.reason, report.detail) == (False, "no_library", "tensorrt is not installed")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out_of_memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed"),
        ("raise SystemExit(3)", "crashed"),
        ("print('no report')", "crashed"),
    ],
)
def test_a_build_that_dies_is_reported_and_kills_nobody(tmp_path: Path, program: str, reason: str) -> None:
    report = EngineBuild(target=OTHERS, folder=tmp_path, data=MODEL, command=child(program)).run()
    assert (report.ok, report.reason) == (False, reason)


def test_a_build_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    build = EngineBuild(target=OTHERS, folder=tmp_path, data=MODEL, command=child("import time; time.sleep(60)"))
    assert build.run(timeout_s=0.3).reason == "timeout"


def test_a_build_can_be_stopped_before_and_while_it_runs(tmp_path: Path) -> None:
    program = child('import time; print(\'{"share": 0.5, "phase": "x"}\', flush=True); time.sleep(60)')
    build = EngineBuild(target=OTHERS, folder=tmp_path, data=MODEL, command=program)
    report = build.run(lambda share, phase: threading.Thread(target=build.stop).start())
    assert (report.ok, report.reason) == (False, "stopped")
    never = EngineBuild(target=OTHERS, folder=tmp_path, data=MODEL, command=program)
    never.stop()
    assert never.run().reason == "stopped"


def test_a_build_is_niced_and_the_first_to_go(tmp_path: Path) -> None:
    """Read from the running child, which waits for a model that never comes whole."""
    command = [sys.executable, "-P", "-m", "outrider_engine.native.build_child"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as running:
        try:
            scores = Path(f"/proc/{running.pid}/oom_score_adj")
            if not scores.exists():
                pytest.skip("the score is read from Linux's /proc")
            for _ in range(400):
                if scores.read_text().strip() == "1000":
                    break
                time.sleep(0.05)
            assert scores.read_text().strip() == "1000"
            assert os.getpriority(os.PRIO_PROCESS, running.pid) >= 10
        finally:
            running.kill()
