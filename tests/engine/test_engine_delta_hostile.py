"""A hostile delta is refused as damaged: it writes no file, takes no memory to speak of, and ends in no other error."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from delta_pairs import model_of, rebuilt, sha, some_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_engine.delta.codes import pack
from outrider_engine.delta.form import (
    COPY,
    DICTIONARY_BYTES,
    LITERAL,
    MAGIC,
    Control,
    Head,
    Instruction,
    Stream,
    encode_control,
    encode_head,
    kind_of,
    name_of,
    varint,
)
from outrider_engine.delta.make import make_delta
from outrider_wire.errors import BundleDamagedError

BASE = bytes(range(256)) * 8
TARGET = BASE[:1_000]
SOUND_BASE = model_of(some_weights(1, rows=20))
SOUND_TARGET = model_of(some_weights(1, rows=20) | {"layer.1.weight": some_weights(2, rows=20)["layer.1.weight"]})
SOUND = make_delta(SOUND_BASE, SOUND_TARGET)
FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
INT8 = kind_of("integer", 1)
FLOAT32 = kind_of("float", 4)


def written(
    streams: list[Stream], instructions: list[Instruction], data: bytes = b"", *, target_size: int = len(TARGET)
) -> bytes:
    """A delta that says just this, and has the right names."""
    return around(encode_control(Control(streams, instructions)), data, target_size=target_size)


def around(control: bytes, data: bytes = b"", *, target_size: int = len(TARGET), raw: int | None = None) -> bytes:
    stored = pack("zstd", control)
    head = Head(
        base=name_of(sha(BASE)),
        target=name_of(sha(TARGET)),
        base_size=len(BASE),
        target_size=target_size,
        control_stored=len(stored),
        control_raw=len(control) if raw is None else raw,
        length=0,
    )
    return encode_head(head) + stored + data


def copy(length: int, skip: int = 0) -> Instruction:
    return Instruction(COPY, length, skip)


BOMB = zstandard.ZstdCompressor(level=3).compress(bytes(64 << 20))
"""With the magic number, which no stream has."""
BARE_BOMB = pack("zstd", bytes(64 << 20))
WIDE = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters.from_level(
        1, window_log=27, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_checksum=0
    )
).compressobj()
WIDE_FRAME = WIDE.compress(TARGET) + WIDE.flush()
"""A frame that asks for a window of 128 MiB."""


def stream(data: bytes, raw: int = len(TARGET), code: str = "zstd", **more: object) -> Stream:
    return Stream(code, 0, len(data), raw, **more)  # type: ignore[arg-type]  # wrong ones too


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "another file": b"PK\x03\x04" + bytes(200),
    "only the magic": MAGIC,
    "another version": MAGIC + b"\x02" + SOUND[5:],
    "an endless number": MAGIC + b"\x01" + bytes(32) + b"\xff" * 80,
    "a target larger than any": MAGIC + b"\x01" + bytes(32) + varint(10) + varint(1 << 40) + varint(1) + varint(1),
    "a control larger than any": MAGIC
    + b"\x01"
    + bytes(32)
    + varint(10)
    + varint(10)
    + varint(1 << 30)
    + varint(1 << 30),
    "a control that unpacks to less than it says": around(b"\x00\x00", raw=1 << 20),
    "a control that is a bomb": around(bytes(64 << 20), raw=2 << 20),
    "a control of noise": around(random.Random(1).randbytes(500)),
    "more streams than any": around(varint(1 << 20)),
    "more instructions than any": around(varint(0) + varint(1 << 30)),
    "no instruction": written([], []),
    "an unknown kind": written([], [Instruction(200, len(TARGET))]),
    "an unknown code": around(varint(1) + bytes([9, 0]) + varint(1) * 2 + varint(0) * 2),
    "a copy of nothing": written([], [copy(0), copy(len(TARGET))]),
    "a copy before the base": written([], [copy(len(TARGET), -1)]),
    "a copy behind the base": written([], [copy(len(TARGET), len(BASE) - 10)]),
    "copies that turn back behind the beginning": written([], [copy(500), copy(500, -501)]),
    "a skip beyond all numbers": written([], [copy(len(TARGET), 1 << 60)]),
    "less than the target": written([], [copy(len(TARGET) - 1)]),
    "more than the target": written([], [copy(len(TARGET)), copy(1)]),
    "another target than it says": written([], [copy(len(TARGET), 5)]),
    "a size that is not the manifest's": written([], [copy(10)], target_size=10),
    "a literal of no stream": written([], [Instruction(LITERAL, len(TARGET))]),
    "planes of streams that are not there": written([stream(TARGET)], [Instruction(FLOAT32, len(TARGET))], TARGET),
    "half an element": written([stream(b"x", 1)] * 4, [copy(999), Instruction(FLOAT32, 1)], b"xxxx"),
    "a stream that says more than is read": written(
        [stream(TARGET, len(TARGET) + 1, "stored")], [Instruction(LITERAL, len(TARGET))], TARGET
    ),
    "a stream that is not used": written(
        [stream(b"", 0, "stored"), stream(b"abc", 3, "stored")], [copy(len(TARGET))], b"abc"
    ),
    "a stream that ends early": written(
        [stream(TARGET[:-1], code="stored")], [Instruction(LITERAL, len(TARGET))], TARGET[:-1]
    ),
    "bytes behind the streams": written([], [copy(len(TARGET))], b"more"),
    "a stream behind the end of the file": written(
        [Stream("stored", 0, 1 << 20, len(TARGET))], [Instruction(LITERAL, len(TARGET))], TARGET
    ),
    "a bomb": written([stream(BARE_BOMB)], [Instruction(LITERAL, len(TARGET))], BARE_BOMB),
    "a bomb with its magic number": written([stream(BOMB)], [Instruction(LITERAL, len(TARGET))], BOMB),
    "a window of 128 MiB": written([stream(WIDE_FRAME)], [Instruction(LITERAL, len(TARGET))], WIDE_FRAME),
    "noise as zstd": written([stream(b"\x07" * 90)], [Instruction(LITERAL, len(TARGET))], b"\x07" * 90),
    "noise as bzip2": written([stream(b"\x07" * 90, code="bz2")], [Instruction(LITERAL, len(TARGET))], b"\x07" * 90),
    "noise as LZMA": written([stream(b"\x07" * 90, code="lzma")], [Instruction(LITERAL, len(TARGET))], b"\x07" * 90),
    "a flavour of LZMA that is none": written(
        [Stream("lzma", 200, 9, len(TARGET))], [Instruction(LITERAL, len(TARGET))], bytes(9)
    ),
    "a dictionary outside the base": written(
        [stream(b"x", dictionary=((len(BASE), 1),))], [Instruction(LITERAL, len(TARGET))], b"x"
    ),
    "a dictionary repeated without end": written(
        [stream(b"x", dictionary=((0, len(BASE)),) * (2 * DICTIONARY_BYTES // len(BASE)))],
        [Instruction(LITERAL, len(TARGET))],
        b"x",
    ),
    "a dictionary where none is of use": written(
        [stream(TARGET, code="stored", dictionary=((0, 5),))], [Instruction(LITERAL, len(TARGET))], TARGET
    ),
    "two dictionaries at once": written(
        [stream(pack("zstd", TARGET[:500]), 500, dictionary=((0, 9),))] * 2,
        [Instruction(LITERAL, 250, 0, 0), Instruction(LITERAL, 250, 0, 1)] * 2,
        pack("zstd", TARGET[:500]) * 2,
    ),
    "seventy streams at once": written(
        [stream(b"ab", 2, "stored")] * 70,
        [Instruction(LITERAL, 1, 0, number) for number in range(70)] * 2 + [copy(len(TARGET) - 140)],
        b"ab" * 70,
    ),
}


@pytest.mark.parametrize("delta", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_delta_is_refused_without_memory_and_without_a_file(tmp_path: Path, delta: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BundleDamagedError) as refused:
            rebuilt(tmp_path, BASE, delta, TARGET)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.reason in ("delta_damaged", "delta_foreign")
    assert len(str(refused.value)) < 400
    assert peak < 24 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "delta"]


def test_the_hand_written_deltas_are_hostile_for_their_own_reason_and_not_by_a_slip(tmp_path: Path) -> None:
    """The negative control: made the same way, sound ones are rebuilt."""
    packed = pack("zstd", TARGET)
    for delta in (
        written([], [copy(500), copy(500)]),
        written([], [copy(250), copy(750)]),
        written([stream(packed)], [Instruction(LITERAL, len(TARGET))], packed),
        written([stream(bytes(1_000), 1_000, "stored")], [Instruction(INT8, len(TARGET))], bytes(1_000)),
        written([stream(TARGET[:2], 2, "stored")], [Instruction(LITERAL, 2), copy(998, 2)], TARGET[:2]),
    ):
        assert rebuilt(tmp_path, BASE, delta, TARGET) == TARGET


def changed(delta: bytes, change: Callable[[bytearray], object]) -> bytes:
    data = bytearray(delta)
    change(data)
    return bytes(data)


@FOLDER
@given(data=st.data())
def test_a_sound_delta_with_bytes_changed_cut_or_repeated_is_refused_or_still_right(
    tmp_path: Path, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(SOUND) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "drop", "repeat", "insert"]))
    bad = {
        "flip": lambda: changed(SOUND, lambda each: each.__setitem__(at, each[at] ^ data.draw(st.integers(1, 255)))),
        "cut": lambda: SOUND[:at],
        "drop": lambda: SOUND[:at] + SOUND[at + data.draw(st.integers(1, 40)) :],
        "repeat": lambda: SOUND[:at] + SOUND[max(0, at - 30) :],
        "insert": lambda: SOUND[:at] + data.draw(st.binary(min_size=1, max_size=20)) + SOUND[at:],
    }[how]()
    try:
        assert rebuilt(tmp_path, SOUND_BASE, bad, SOUND_TARGET) == SOUND_TARGET
    except BundleDamagedError as error:
        assert error.reason in ("delta_damaged", "delta_foreign", "delta_base")
        assert {path.name for path in tmp_path.iterdir()} <= {"base", "delta", "out"}


@FOLDER
@given(control=st.binary(max_size=300), data=st.binary(max_size=100))
def test_any_control_is_refused_or_right(tmp_path: Path, control: bytes, data: bytes) -> None:
    with pytest.raises(BundleDamagedError):
        rebuilt(tmp_path, BASE, around(control, data), TARGET)


@FOLDER
@given(
    kinds=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 600), st.integers(-300, 300), st.integers(0, 5)), max_size=8
    ),
    sizes=st.lists(
        st.tuples(st.sampled_from(["stored", "zstd", "bz2", "lzma"]), st.integers(0, 60), st.integers(0, 600)),
        max_size=6,
    ),
)
def test_any_well_formed_control_is_refused_or_right(
    tmp_path: Path, kinds: list[tuple[int, int, int, int]], sizes: list[tuple[str, int, int]]
) -> None:
    streams = [Stream(code, 0, stored, raw) for code, stored, raw in sizes]  # type: ignore[arg-type]  # drawn from CODES
    delta = written(streams, [Instruction(*each) for each in kinds], bytes(sum(each[1] for each in sizes)))
    with pytest.raises(BundleDamagedError):
        rebuilt(tmp_path, BASE, delta, TARGET)


def test_a_full_disk_is_an_os_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        (tmp_path / "base").write_bytes(SOUND_BASE)
        (tmp_path / "delta").write_bytes(SOUND)
        from outrider_engine.delta.apply import apply_delta

        apply_delta(
            tmp_path / "base",
            tmp_path / "delta",
            to=tmp_path / "absent" / "out",
            sha256=sha(SOUND_TARGET),
            size=len(SOUND_TARGET),
        )
