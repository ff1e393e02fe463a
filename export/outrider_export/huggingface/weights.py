"""A checkpoint's weights as safetensors: as they are, or made of a pickle by a limited child process. Unpickles nothing itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from outrider_export.huggingface.folder import CONFIG, SAFE, weight_files
from outrider_wire.decodable import decodable
from outrider_wire.errors import BundleUnsafeError

CHILD = (sys.executable, "-P", "-m", "outrider_export.huggingface.weights_child")
WALL_S = 300.0
SPARE_MB = 512
"""Memory beyond what reading and writing the weights takes."""
_BY_HAND = (
    'where you trust it, run: python -c "import torch, safetensors.torch as s; '
    "s.save_file({k: v.clone() for k, v in torch.load('pytorch_model.bin', weights_only=True).items()}, 'model.safetensors')\""
)


class Converted(Struct, kw_only=True, frozen=True):
    """What the child says as its last line."""

    ok: bool
    detail: str = ""
    tensors: int = 0


def safe_folder(root: Path, work: Path, *, wall_s: float = WALL_S, spare_mb: int = SPARE_MB) -> Path:
    """A directory with the configuration and safetensors: ``root`` itself, or ``work`` with what was made of pickles.

    The child has bounds on memory (what the weights need and ``spare_mb`` more), time (``wall_s``) and the size of a file. What
    keeps it from running a pickle's code is PyTorch's ``weights_only=True`` alone: it is no sandbox, and has this user's rights.

    Raises:
        BundleUnsafeError: a pickle that does not come to an end within these bounds, or holds something else than tensors.
        OperatorConfigError: there are no weights.
    """
    files, safe = weight_files(root)
    if safe:
        return root
    shutil.copyfile(root / CONFIG, work / CONFIG)
    size_mb = sum(file.stat().st_size for file in files) / (1 << 20)
    said = _converted([*map(str, files)], work / SAFE, memory_mb=round(4 * size_mb) + spare_mb, wall_s=wall_s)
    if not said.ok:
        raise BundleUnsafeError(
            f"{', '.join(file.name for file in files)} of {root} is a pickle that cannot be converted: {said.detail}",
            reason="pickled_checkpoint",
            fix=_BY_HAND,
        )
    return work


def _converted(files: list[str], out: Path, *, memory_mb: int, wall_s: float) -> Converted:
    arguments = [*CHILD, str(out), str(memory_mb), str(max(1, round(wall_s))), *files]
    environment = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=wall_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return Converted(ok=False, detail=f"it took more than {wall_s:g} s")
    try:
        return msgspec.json.decode(child.stdout.strip().rpartition(b"\n")[2], type=decodable(Converted))
    except msgspec.MsgspecError:
        return Converted(ok=False, detail=f"the process that reads it ended with status {child.returncode}")
