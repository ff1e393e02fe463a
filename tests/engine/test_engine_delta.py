"""A delta rebuilds the very bytes, is small where little changed, and takes bounded memory whatever the sizes."""

import subprocess
import sys
from pathlib import Path

import bsdiff4
import numpy as np
import pytest
import zstandard
from delta_pairs import model_of, rebuilt, sha, some_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_engine.delta.beside import delta_path, find_delta, write_delta, write_deltas
from outrider_engine.delta.form import DICTIONARY_BYTES, INSTRUCTIONS
from outrider_engine.delta.layout import tensors_of
from outrider_engine.delta.make import LITERAL_BYTES, make_delta
from outrider_engine.delta.plan import plan
from outrider_engine.delta.planes import join, split
from outrider_wire.errors import BundleDamagedError

DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int32", "int64")
FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def whole(data: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=19).compress(data))


def patch_from(base: bytes, target: bytes) -> int:
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=24, enable_ldm=True)
    shape = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return len(zstandard.ZstdCompressor(compression_params=parameters, dict_data=shape).compress(target))


def moved(seed: int, dtype: str, share: float) -> tuple[bytes, bytes]:
    """A model, and the same after every weight has moved by about that share of the spread."""
    rng = np.random.default_rng(seed)
    before = some_weights(seed, dtype=dtype)
    step = {name: share * array.std() * rng.normal(size=array.shape) for name, array in before.items()}
    after = {
        name: np.rint(array + step[name]).astype(array.dtype) if "int" in str(array.dtype) else array + step[name]
        for name, array in before.items()
    }
    return model_of(before), model_of({name: array.astype(before[name].dtype) for name, array in after.items()})


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_update_of_every_weight_is_rebuilt_and_no_other_way_is_much_smaller(tmp_path: Path, dtype: str) -> None:
    base, target = moved(1, dtype, 0.01)
    delta = make_delta(base, target)
    assert rebuilt(tmp_path, base, delta, target) == target
    assert len(delta) <= 1.05 * min(whole(target), patch_from(base, target), len(bsdiff4.diff(base, target)))


def test_the_same_two_files_give_the_same_delta() -> None:
    base, target = moved(2, "float32", 0.01)
    assert make_delta(base, target) == make_delta(base, target)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_an_adapter_costs_what_it_changes(tmp_path: Path, dtype: str) -> None:
    """One tensor of eight changes; of it, some rows: less than those rows' own bytes are sent, and a little."""
    before = some_weights(3, dtype=dtype, rows=1_000)
    after = {name: array.copy() for name, array in before.items()}
    rows = np.random.default_rng(0).choice(1_000, 20, replace=False)
    after["layer.2.weight"][rows] += np.asarray(3, dtype)
    base, target = model_of(before), model_of(after)
    delta = make_delta(base, target)
    assert rebuilt(tmp_path, base, delta, target) == target
    assert len(delta) < after["layer.2.weight"][rows].nbytes + 700 < 0.05 * len(target)


def test_nothing_changed_costs_next_to_nothing(tmp_path: Path) -> None:
    base = model_of(some_weights())
    delta = make_delta(base, base)
    assert rebuilt(tmp_path, base, delta, base) == base
    assert len(delta) < 100


def test_renamed_reordered_reshaped_and_new_tensors_and_another_graph_are_rebuilt(tmp_path: Path) -> None:
    before = some_weights(4)
    base = model_of(before)
    renamed = {name.replace("layer", "module.block"): array for name, array in before.items()}
    reordered = dict(reversed(before.items()))
    more = before | {"adapter": np.ones((8, 8), "float32"), "layer.0.weight": before["layer.0.weight"][:100]}
    other_type = before | {"layer.1.weight": before["layer.1.weight"].astype("float16")}
    for number, after in enumerate((renamed, reordered, more, other_type)):
        target = model_of(after, doc="a longer text than there was")
        delta = make_delta(base, target)
        assert rebuilt(tmp_path, base, delta, target) == target
        fresh = sum(array.nbytes for name, array in after.items() if array is not before.get(name))
        assert len(delta) < 1_500 + (fresh if number > 1 else 0)


def test_values_kept_as_lists_and_as_raw_bytes_are_rebuilt(tmp_path: Path) -> None:
    before = {f"{dtype}": (20 * np.random.default_rng(5).normal(size=(40, 9))).astype(dtype) for dtype in DTYPES}
    after = {name: array + np.asarray(1, array.dtype) for name, array in before.items()}
    base, target = model_of(before, typed=DTYPES), model_of(after, typed=DTYPES)
    assert rebuilt(tmp_path, base, make_delta(base, target), target) == target
    raw = model_of(after)
    assert rebuilt(tmp_path, base, make_delta(base, raw), raw) == raw


@FOLDER
@given(base=st.binary(max_size=400), target=st.binary(max_size=400), repeats=st.integers(1, 40))
def test_files_of_any_kind_are_rebuilt(tmp_path: Path, base: bytes, target: bytes, repeats: int) -> None:
    base, target = base * repeats, (target + base[:50]) * repeats
    assert rebuilt(tmp_path, base, make_delta(base, target), target) == target


def test_a_text_that_changed_a_little_is_small_as_a_delta(tmp_path: Path) -> None:
    words = [f"word-{number * number}" for number in range(20_000)]
    base = "\n".join(words).encode()
    target = "\n".join([*words[:5_000], "another", *words[5_000:]]).encode()
    delta = make_delta(base, target)
    assert rebuilt(tmp_path, base, delta, target) == target
    assert len(delta) < 150


@pytest.mark.slow
def test_a_file_of_many_streams_of_literals_is_rebuilt(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    base = rng.bytes(DICTIONARY_BYTES + 3_000_000)
    target = rng.bytes(1_000) + base[: 2 * LITERAL_BYTES + 17] + rng.bytes(50) + base[2 * LITERAL_BYTES :]
    delta = make_delta(base, target)
    assert rebuilt(tmp_path, base, delta, target) == target
    assert len(delta) < 10_000


@pytest.mark.slow
def test_a_model_of_more_tensors_than_instructions_is_rebuilt(tmp_path: Path) -> None:
    many = {f"t{number}": np.full(2, number, "float32") for number in range(INSTRUCTIONS // 3)}
    base = model_of(many)
    target = model_of({name: array + np.float32(0.5) for name, array in many.items()})
    assert len(plan(memoryview(base), memoryview(target)).pieces) == 1
    assert rebuilt(tmp_path, base, make_delta(base, target), target) == target


@given(
    kind=st.sampled_from(["xor", "integer", "float", "plain"]),
    width=st.sampled_from([1, 2, 4, 8]),
    data=st.data(),
)
def test_planes_come_together_again(kind: str, width: int, data: st.DataObject) -> None:
    """Every bit pattern: not-a-numbers, infinities and both zeros too."""
    if (kind, width) == ("float", 1):
        return
    count = data.draw(st.integers(1, 20))
    base, target = (data.draw(st.binary(min_size=count * width, max_size=count * width)) for _ in range(2))
    assert join(kind, width, base, split(kind, width, base, target)) == target


def test_tensors_are_found_where_they_lie() -> None:
    weights = some_weights(7, dtype="float16")
    data = model_of(weights, typed=("layer.0.bias",))
    found = {tensor.name: tensor for tensor in tensors_of(data)}
    assert set(found) == set(weights)
    for name, tensor in found.items():
        assert data[tensor.begin : tensor.end] == weights[name].tobytes()
    assert tensors_of(b"") == tensors_of(b"no model at all") == []


def test_a_stick_carries_deltas_by_the_digests_of_both_files(tmp_path: Path) -> None:
    base, target = moved(8, "int8", 0.01)
    for folder, data in (("old", base), ("new", target), ("far", np.random.default_rng(0).bytes(5_000))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_bytes(data)
    files = {folder: tmp_path / folder / "model.onnx" for folder in ("old", "new", "far")}
    stick = tmp_path / "stick"
    assert find_delta(stick, bases=[sha(base)], target=sha(target)) is None
    made = write_deltas(stick, bases=[files["old"], files["far"]], targets=[files["new"]])
    assert delta_path(stick, base=sha(base), target=sha(target)) in made
    found = find_delta(stick, bases=["0" * 64, sha(base)], target=sha(target))
    assert found is not None and found[0] == sha(base)
    assert rebuilt(tmp_path, base, found[1].read_bytes(), target) == target
    assert write_delta(stick, base=files["new"], target=files["far"]) is None, "it would be as large as the file"


def test_the_file_there_stays_when_the_base_is_another_than_the_delta_s(tmp_path: Path) -> None:
    base, target = moved(9, "float32", 0.01)
    delta = make_delta(base, target)
    (tmp_path / "out").write_bytes(b"what was there")
    for wrong, named, reason in (
        (target, target, "delta_base"),
        (base + b"?", target, "delta_base"),
        (base, base, "delta_foreign"),
    ):
        with pytest.raises(BundleDamagedError) as refused:
            rebuilt(tmp_path, wrong, delta, named)
        assert refused.value.reason == reason
        assert (tmp_path / "out").read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "delta", "out"]


_CHILD = """
import sys
from pathlib import Path
from outrider_engine.delta.apply import apply_delta
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
folder, sha256, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
apply_delta(folder / "base", folder / "delta", to=folder / "out", sha256=sha256, size=size)
print((peak() - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """Two tensors of 24 MB: less than one of them is ever in memory."""
    rng = np.random.default_rng(10)
    before = {name: rng.normal(0, 0.05, (1_500, 4_000)).astype("float32") for name in ("a", "b")}
    after = {"a": before["a"] + np.float32(1e-3), "b": before["b"]}
    base, target = model_of(before), model_of(after)
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "delta").write_bytes(make_delta(base, target))
    arguments = [sys.executable, "-c", _CHILD, str(tmp_path), sha(target), str(len(target))]
    grown_mb = float(
        subprocess.run(arguments, capture_output=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}).stdout
    )
    assert (tmp_path / "out").read_bytes() == target
    assert grown_mb < 24
