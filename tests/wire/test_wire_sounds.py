"""Sound files become samples, samples another rate and log-mel frames; hostile files are refused with the part and the reason."""

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly
from waves import tone, wav

from outrider_wire.errors import BundleMismatchError, CallerInputError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.sounds import SAMPLES, Sound, decode_wav, resampled_wave
from outrider_wire.steps import Preparer

SOUND = tone(440, noise=0.05)


def made(steps: list[Step], shape: list[int], value: bytes | str) -> np.ndarray[Any, Any]:
    return Preparer([ModelInput(part="p", tensor="t", steps=steps, shape=shape)]).prepare({"p": value})["t"]


@pytest.mark.parametrize(
    ("bits", "kind", "apart"), [(8, 1, 2e-2), (16, 1, 1e-4), (24, 1, 1e-6), (32, 1, 1e-7), (32, 3, 1e-7)]
)
def test_a_wave_file_of_each_width_gives_its_samples(bits: int, kind: int, apart: float) -> None:
    sound = decode_wav(wav(SOUND, bits=bits, kind=kind), part="p")
    assert sound.rate == 16_000 and sound.samples.dtype == np.float32
    assert np.abs(sound.samples - SOUND).max() < apart


def test_channels_are_averaged() -> None:
    both = np.stack([SOUND, -SOUND / 2], 1)
    sound = decode_wav(wav(both.reshape(-1), channels=2), part="p")
    assert np.abs(sound.samples - SOUND / 4).max() < 1e-4


def test_chunks_that_say_other_things_are_passed_over() -> None:
    file = wav(SOUND)
    told = file[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + file[12:]
    assert np.array_equal(decode_wav(told, part="p").samples, decode_wav(file, part="p").samples)


def test_a_file_that_was_cut_off_keeps_what_it_has() -> None:
    assert len(decode_wav(wav(SOUND)[:-1001], part="p").samples) == len(SOUND) - 501


def changed(at: int, form: str, value: int) -> bytes:
    file = bytearray(wav(SOUND))
    struct.pack_into(form, file, at, value)
    return bytes(file)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("a text", "wrong_type"),
        (b"", "not_a_sound"),
        (b"ID3\x04" + bytes(100), "not_a_sound"),
        (b"fLaC" + bytes(100), "not_a_sound"),
        (wav(SOUND)[:36], "damaged_sound"),
        (wav(SOUND)[:30], "damaged_sound"),
        (wav(np.zeros(0)), "sound_length"),
        (changed(20, "<H", 0x55), "unsupported_sound"),
        (changed(22, "<H", 0), "unsupported_sound"),
        (changed(22, "<H", 65535), "unsupported_sound"),
        (changed(24, "<I", 1), "unsupported_sound"),
        (changed(24, "<I", 0xFFFFFFFF), "unsupported_sound"),
        (changed(34, "<H", 0), "unsupported_sound"),
        (changed(34, "<H", 12), "unsupported_sound"),
        (changed(16, "<I", 0xFFFFFFFF), "damaged_sound"),
    ],
)
def test_what_is_no_sound_is_refused_with_its_reason(data: bytes | str, reason: str) -> None:
    with pytest.raises(CallerInputError) as caught:
        decode_wav(data, part="p")
    assert (caught.value.reason, caught.value.part) == (reason, "p")


@pytest.mark.parametrize(
    ("old", "new"), [(8_000, 16_000), (48_000, 16_000), (44_100, 16_000), (22_050, 8_000), (16_000, 16_000)]
)
def test_resampling_agrees_with_scipy(old: int, new: int) -> None:
    samples = tone(300, rate=old, seconds=0.3, noise=0.1).astype(np.float32)
    ours = resampled_wave(Sound(samples, old), new, part="p")
    theirs = resample_poly(samples.astype(np.float64), new, old)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5


def test_a_tone_above_half_the_new_rate_is_gone_and_one_below_stays() -> None:
    high, low = (
        resampled_wave(Sound(tone(hertz, rate=48_000).astype(np.float32), 48_000), 16_000, part="p")
        for hertz in (12_000, 1_000)
    )
    assert np.abs(high[500:-500]).max() < 0.01
    assert np.abs(low[500:-500]).max() == pytest.approx(0.5, abs=0.01)


def test_a_sound_that_would_grow_without_bound_is_refused_before_it_does() -> None:
    with pytest.raises(CallerInputError) as caught:
        resampled_wave(Sound(np.zeros(SAMPLES // 4, np.float32), 1_000), 96_000, part="p")
    assert caught.value.reason == "sound_length"


MEL = {"mels": 20, "window": 400, "hop": 160, "transform": 512, "high_hz": 8000.0, "log": "log10"}
EARS = [Step(op="decode_audio"), Step(op="resample", args={"rate": 16_000})]


def test_the_loudest_mel_band_is_that_of_the_tone() -> None:
    steps = [*EARS, Step(op="log_mel", args=MEL), Step(op="fit", args={"length": 40, "value": -10.0})]
    low, high = (made(steps, [40, 20], wav(tone(hertz))) for hertz in (300, 3000))
    assert low.dtype == np.float32
    assert low[:30].mean(0).argmax() < high[:30].mean(0).argmax()


def test_a_sound_is_cut_standardised_and_padded_in_the_declared_order() -> None:
    steps = [
        *EARS,
        Step(op="trim", args={"length": 4000}),
        Step(op="standardize"),
        Step(op="fit", args={"length": 6000}),
    ]
    long, short = (made(steps, [6000], wav(0.2 + SOUND[:n])) for n in (8000, 2000))
    assert abs(long[:4000].mean()) < 1e-4 and long[:4000].std() == pytest.approx(1, abs=1e-3)
    assert not long[4000:].any() and not short[2000:].any()


def test_a_window_can_be_of_the_last_samples() -> None:
    steps = [
        Step(op="decode_series", args={"channels": 2}),
        Step(op="fit", args={"length": 3, "last": True}),
        Step(op="flatten"),
    ]
    rows = np.arange(10, dtype="<f4")
    assert made(steps, [6], rows.tobytes()).tolist() == [4, 5, 6, 7, 8, 9]
    assert made(steps, [6], rows[:2].tobytes()).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("data", [b"", b"1234567", b"1" * 12, "1, 2"])
def test_numbers_that_are_no_whole_rows_are_refused(data: bytes | str) -> None:
    with pytest.raises(CallerInputError) as caught:
        made([Step(op="decode_series", args={"channels": 2})], [1, 2], data)
    assert caught.value.reason == "wrong_series"


def test_a_series_with_nan_never_reaches_a_model() -> None:
    with pytest.raises(CallerInputError) as caught:
        made([Step(op="decode_series")], [1, 1], np.asarray([np.nan], "<f4").tobytes())
    assert caught.value.reason == "not_finite"


def test_a_sound_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(CallerInputError) as caught:
        made([*EARS, Step(op="log_mel", args=MEL), Step(op="fit", args={"length": 4})], [4, 20], wav(SOUND[:399]))
    assert caught.value.reason == "sound_length"


def test_the_mask_says_where_the_sound_ends() -> None:
    mask = made([*EARS, Step(op="sample_mask", args={"length": 600})], [600], wav(SOUND[:500]))
    assert mask.dtype == np.int64 and mask.sum() == 500 and mask[499] == 1


@pytest.mark.parametrize(
    ("steps", "shape", "message"),
    [
        ([*EARS, Step(op="log_mel", args=MEL | {"high_hz": 9000.0})], [4, 20], "half of the rate"),
        ([*EARS, Step(op="log_mel", args=MEL | {"window": 513})], [4, 20], "longer than the transform"),
        ([EARS[0], Step(op="log_mel", args=MEL)], [4, 20], "sound comes before it"),
        ([EARS[0]], [4], "which is no array"),
        ([*EARS, Step(op="fit", args={"length": 1 << 30})], [4], "<= 16777216"),
        ([*EARS, Step(op="resample", args={"rate": 16_000})], [4], "wave comes before it"),
    ],
)  # fmt: skip
def test_sound_steps_that_do_not_fit_are_the_bundles(steps: list[Step], shape: list[int], message: str) -> None:
    with pytest.raises(BundleMismatchError, match=message):
        made(steps, shape, wav(SOUND))


@pytest.mark.parametrize(
    ("rate", "seconds"), [(384_000, 1.0), (16_000, 120.0)], ids=["a rate far above the model's", "a long sound"]
)
def test_a_sound_takes_little_more_memory_than_its_own_samples(rate: int, seconds: float) -> None:
    value = wav(np.zeros(round(rate * seconds), np.float32), rate=rate)
    mels = {"mels": 8, "window": 400, "hop": 160, "transform": 512, "high_hz": 8000.0}
    steps = [
        Step(op="decode_audio"),
        Step(op="resample", args={"rate": 16_000}),
        Step(op="log_mel", args=mels),
        Step(op="fit", args={"length": 4}),
    ]
    tracemalloc.start()
    try:
        made(steps, [4, 8], value)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 12 * len(value) + (40 << 20)


def test_a_rate_that_would_need_millions_of_weights_is_refused_before_they_are_made() -> None:
    with pytest.raises(CallerInputError, match="odd rate") as caught:
        resampled_wave(Sound(np.zeros(1000, np.float32), 383_999), 16_000, part="p")
    assert caught.value.reason == "unsupported_sound"
