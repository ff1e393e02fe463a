"""A device runs bundles without a training library, an exporter or the onnx package in the process."""

import os
import subprocess
import sys
from pathlib import Path

from factory import make_bundle

FORBIDDEN = ("torch", "transformers", "onnx", "onnxscript", "google.protobuf", "outrider_export")


def test_the_self_tests_child_answers_without_torch_and_onnx(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from outrider_engine.selftest_child import examine\n"
        f"assert examine(Path({str(bundle)!r})).ok\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
