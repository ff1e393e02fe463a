"""The runtime is one, is set up for a device, takes bytes, and reports to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from factory import LABELS, onnx_bytes
from outrider_engine.session import OrtSession, check_runtimes, installed_runtimes
from outrider_wire.errors import BundleMismatchError, OperatorSetupError

MODEL = onnx_bytes(LABELS, text_only=True)


def test_a_session_gives_every_output_by_name() -> None:
    session = OrtSession(MODEL)
    found = session.run({"words": np.zeros((5, 96), np.float32)})
    assert {name: array.shape for name, array in found.items()} == {"logits": (5, 3), "support": (5,)}
    assert session.provider == "CPUExecutionProvider"
    assert session.inputs[0].shape == ("batch", 96)
    assert session.inputs[0].dtype == "float32"


def test_an_unoptimised_session_answers_the_same() -> None:
    feeds = {"words": np.random.default_rng(0).random((4, 96), np.float32)}
    plain, fast = OrtSession(MODEL, optimise=False).run(feeds), OrtSession(MODEL).run(feeds)
    np.testing.assert_allclose(plain["logits"], fast["logits"], atol=1e-5)


def test_bytes_that_are_no_model_are_refused_by_the_bundles_error() -> None:
    with pytest.raises(BundleMismatchError) as refusal:
        OrtSession(b"This is not a model.")
    assert refusal.value.reason == "model_refused"


@pytest.mark.parametrize(
    "feeds", [{"words": np.zeros((1, 95), np.float32)}, {"words": np.zeros((1, 96), np.int64)}, {}, {"x": np.zeros(1)}]
)
def test_tensors_that_do_not_fit_are_refused_by_the_bundles_error(feeds: dict[str, np.ndarray]) -> None:
    with pytest.raises(BundleMismatchError) as refusal:
        OrtSession(MODEL).run(feeds)
    assert refusal.value.reason == "model_failed"


def test_a_provider_that_the_runtime_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(OperatorSetupError, match=r"NoSuchProvider.*CPUExecutionProvider"):
        OrtSession(MODEL, providers=("NoSuchProvider",))


def test_one_runtime_is_found_here_and_is_enough() -> None:
    found = installed_runtimes()
    assert len(found) == 1
    check_runtimes(found)


def test_two_runtimes_are_an_error_that_says_which_to_uninstall(tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{name}-1.30.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.30.0\n")
    found = installed_runtimes([str(tmp_path)])
    assert found == ["onnxruntime 1.30.0", "onnxruntime-gpu 1.30.0"]
    with pytest.raises(OperatorSetupError, match=r"pip uninstall onnxruntime, then .*onnxruntime-gpu") as refusal:
        check_runtimes(found)
    assert refusal.value.reason == "two_runtimes"


def test_no_runtime_is_an_error_that_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from outrider_engine.session import load_runtime\n"
        "from outrider_wire.errors import OperatorSetupError\n"
        "try: load_runtime()\n"
        "except OperatorSetupError as error: print(error.reason, error)\n"
    )
    said = _python(program, {})
    assert said.startswith("no_runtime")
    assert "pip install outrider[cpu]" in said


def test_the_runtime_is_loaded_with_its_telemetry_off_and_no_thread_of_its_own(tmp_path: Path) -> None:
    """Its telemetry keeps a file in the cache folder and an uploader thread, even in a process that loads no model."""
    program = (
        "import os, sys\n"
        "from outrider_engine.session import OrtSession\n"
        "OrtSession(sys.stdin.buffer.read())\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], len(os.listdir('/proc/self/task')))\n"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    assert _python(program, environment) == "1 1"
    assert list(tmp_path.iterdir()) == []


def _python(program: str, environment: dict[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], input=MODEL, env=kept | path | environment, capture_output=True, check=True
    )
    return done.stdout.decode().strip()
