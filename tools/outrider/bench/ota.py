"""``outrider bench ota``: bytes of an update against what others would send, seconds, and the device's memory. Prints nothing.

Each pair of models is sent as the whole file in zstd -19, as zstd's patch-from, as bsdiff4's patch and as our delta. Deltas are
applied in a child process on one core, as a device does: what it rebuilds is compared, and its memory read from the kernel.
"""

import hashlib
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from outrider.bench.ota_pairs import Pair, Worth, make_pairs
from outrider.progress import Tell
from outrider_engine.delta.make import make_delta
from outrider_wire.errors import OperatorSetupError, UndecidedError

MEGABYTE = 1_000_000
_CHILD = """
import sys, time
from pathlib import Path
from outrider_engine.delta.apply import apply_delta
folder, sha256, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
status = Path("/proc/self/status")
def peak_mb():
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
before, started = peak_mb(), time.process_time()
apply_delta(folder / "base", folder / "delta", to=folder / "out", sha256=sha256, size=size)
print(time.process_time() - started, peak_mb(), peak_mb() - before)
"""


@dataclass(frozen=True, kw_only=True)
class OtaPlan:
    """What to measure."""

    folder: Path
    """Where the demo keeps its models, and the pairs trained from them."""
    seed: int = 0
    large_mb: int = 100
    """Size of the synthetic model by which applying is timed; 0: none."""


class Case(Struct, kw_only=True, frozen=True):
    """One update. Bytes; of the synthetic models, which are there for speed and memory, zstd's are those of level 3, and the other
    ways, which take minutes or 17 times their size in memory, are left out."""

    full_zstd: int
    patch_from: int | None
    bsdiff4: int | None
    outrider: int
    make_s: float
    apply_mb_s: float
    """Megabytes of the rebuilt file in a second of one core."""
    rss_mb: float
    """Most memory of the process that applied it, the interpreter with numpy included; 0: the kernel does not say."""
    added_mb: float
    """What applying added to it."""
    size: int

    @property
    def best_other(self) -> int:
        """Bytes of the smallest of the other ways."""
        return min(each for each in (self.full_zstd, self.patch_from, self.bsdiff4) if each is not None)


class Found(NamedTuple):
    """What was measured."""

    cases: dict[str, Case]
    """By name."""
    worth: dict[str, Worth]
    """Release → what it is worth; the one before the update among them."""


def measure(plan: OtaPlan, tell: Tell) -> Found:
    """Every case, and what each release is worth; trains what is not there yet.

    Raises:
        OperatorSetupError: a library of the extras ``bench``, ``export`` or ``demo`` is absent.
        UndecidedError: a delta does not rebuild its target.
    """
    _bsdiff4()  # before anything is trained
    found: dict[str, Case] = {}
    pairs, worth = make_pairs(plan.folder, seed=plan.seed, tell=tell)
    for done, pair in enumerate(pairs):
        tell("comparing", done / len(pairs))
        found[pair.name] = _case(pair, others=True)
    for pair in _synthetic(plan.large_mb):
        tell(f"synthetic: {pair.name}", 0.0)
        found[pair.name] = _case(pair, others=False)
        tell(f"synthetic: {pair.name}", 1.0)
    return Found(found, worth)


def _bsdiff4() -> ModuleType:
    try:
        return importlib.import_module("bsdiff4")
    except ImportError as error:
        raise OperatorSetupError(
            "bsdiff4 is not installed", reason="missing_library", fix="pip install 'outrider[bench]'"
        ) from error


def _case(pair: Pair, *, others: bool) -> Case:
    started = time.perf_counter()
    delta = make_delta(pair.before, pair.after)
    make_s = time.perf_counter() - started
    used_s, rss_mb, added_mb = _applied(pair, delta)
    return Case(
        full_zstd=_whole(pair.after, level=19 if others else 3),
        patch_from=_patch_from(pair) if others else None,
        bsdiff4=_bsdiff(pair) if others else None,
        outrider=len(delta),
        make_s=round(make_s, 3),
        apply_mb_s=round(len(pair.after) / MEGABYTE / used_s, 1),
        rss_mb=round(rss_mb, 1),
        added_mb=round(added_mb, 1),
        size=len(pair.after),
    )


def _whole(data: bytes, *, level: int) -> int:
    import zstandard

    return len(zstandard.ZstdCompressor(level=level).compress(data))


def _patch_from(pair: Pair) -> int:
    """As ``zstd --patch-from --long`` does: the old file is the dictionary, and the window spans both."""
    import zstandard

    window = min(31, (len(pair.before) + len(pair.after)).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=window, enable_ldm=True)
    shape = zstandard.ZstdCompressionDict(pair.before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return len(zstandard.ZstdCompressor(compression_params=parameters, dict_data=shape).compress(pair.after))


def _bsdiff(pair: Pair) -> int:
    return len(_bsdiff4().diff(pair.before, pair.after))


def _applied(pair: Pair, delta: bytes) -> tuple[float, float, float]:
    """Seconds of processor time, peak megabytes, and megabytes added, of a child that applies it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base").write_bytes(pair.before)
        (folder / "delta").write_bytes(delta)
        sha256 = hashlib.sha256(pair.after).hexdigest()
        command = [sys.executable, "-c", _CHILD, name, sha256, str(len(pair.after))]
        environment = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode or (folder / "out").read_bytes() != pair.after:
            raise UndecidedError(f"{pair.name}: not rebuilt: {done.stderr[-300:]}", reason="not_rebuilt")
    used_s, rss_mb, added_mb = map(float, done.stdout.split())
    return used_s, rss_mb, added_mb


def _synthetic(megabytes: int) -> Iterator[Pair]:
    """Random weights of that size together: every one moved a little, as fp32 and as int8; and one tensor of many (an adapter)."""
    if not megabytes:
        return
    rng = np.random.default_rng(0)
    before = [rng.normal(0, 0.05, (1024, 1024)).astype(np.float32) for _ in range(max(2, megabytes * MEGABYTE >> 22))]
    after = [each + rng.normal(0, 5e-6, each.shape).astype(np.float32) for each in before]
    yield Pair(change="synthetic", precision="fp32", before=_model(before), after=_model(after))
    yield Pair(
        change="synthetic adapter", precision="fp32", before=_model(before), after=_model([after[0], *before[1:]])
    )
    moved = [each + rng.normal(0, 5e-4, each.shape) for each in before]
    whole, part = ([np.rint(each * 600).clip(-127, 127).astype(np.int8) for each in some] for some in (before, moved))
    yield Pair(change="synthetic", precision="int8", before=_model(whole), after=_model(part))


def _model(weights: list[np.ndarray]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    tensors = [numpy_helper.from_array(each, f"w{number}") for number, each in enumerate(weights)]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w0"], ["y"])],
        "graph",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return bytes(helper.make_model(graph).SerializeToString(deterministic=True))


def line_of(found: Found) -> dict[str, object]:
    """The JSON line: every case by its name, and ``worth``."""
    cases = {name: msgspec.to_builtins(case) for name, case in found.cases.items()}
    return {**cases, "worth": {name: msgspec.to_builtins(worth) for name, worth in found.worth.items()}}
