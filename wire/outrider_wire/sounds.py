"""Sound bytes to samples, distrustfully, and samples to log-mel frames. Knows numpy, and nothing of tasks, bundles or steps.

Everything is computed in float64 and given as float32, so that two machines differ by rounding alone.
"""

import math
import struct
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from outrider_wire.errors import CallerInputError

Wave = NDArray[np.float32]
MelScale = Literal["htk", "kaldi", "slaney"]
Window = Literal["hann", "hamming", "povey", "box"]
Logarithm = Literal["ln", "log10", "db"]

RATES = (1_000, 384_000)
"""Samples a second that a file may have."""
CHANNELS = 16
SAMPLES = 1 << 24
"""Of one channel: 17 minutes at 16 kHz. A file's own bytes bound them, resampling would not."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ZEROS = 10
"""Zero crossings of the resampling filter on either side, and its Kaiser β: as scipy.signal.resample_poly has them."""
_BETA = 5.0
_BLOCK = 1 << 20
"""Numbers that are laid out at once: what a sound takes in memory grows with its length, and not with how often each sample is read."""
_WEIGHTS = 1 << 20
"""Of a resampling filter. Usual rates need some thousands; a rate that shares no divisor with the other needs millions, a second's work."""
_BANDS = 1 << 24
"""Numbers that a sound may become: 128 bands of 17 minutes, 100 frames a second."""


class Sound(NamedTuple):
    """What a file holds, mixed to one channel."""

    samples: Wave
    """(n,) in −1..1."""
    rate: int
    """Samples a second."""


def decode_wav(data: bytes | str, *, part: str) -> Sound:
    """The sound in a RIFF WAVE file: PCM of 8, 16, 24 or 32 bits, or 32-bit float; channels are averaged.

    Raises:
        CallerInputError: text instead of bytes, no such file, cut off, or beyond a bound.
    """
    if isinstance(data, str):
        raise _refused(part, "is text, not a sound", "wrong_type", "send the bytes of a WAV file")
    form, body = _chunks(data, part)
    kind, channels, rate, bits = form
    if not (RATES[0] <= rate <= RATES[1] and 1 <= channels <= CHANNELS):
        raise _refused(
            part,
            f"has {channels} channels at {rate} samples a second",
            "unsupported_sound",
            f"send at most {CHANNELS} channels at {RATES[0]} to {RATES[1]}",
        )
    frame = channels * bits // 8
    read = _READERS.get((kind, bits))
    if read is None:
        raise _refused(
            part, f"is WAV of format {kind} with {bits} bits", "unsupported_sound", "send PCM of 16 bits, uncompressed"
        )
    whole = len(body) // frame * frame
    if not whole or whole // frame > SAMPLES:
        raise _refused(part, f"has {whole // frame} samples", "sound_length", f"send 1 to {SAMPLES} samples")
    samples = read(body[:whole]).reshape(-1, channels)
    return Sound(samples.mean(axis=1, dtype=np.float64).astype(np.float32), rate)


class _Form(NamedTuple):
    kind: int
    channels: int
    rate: int
    bits: int


def _chunks(data: bytes, part: str) -> tuple[_Form, bytes]:
    """The format of a WAVE file and the bytes of its samples; one that was cut off keeps what it has."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise _refused(part, "is not a WAV file", "not_a_sound", "send RIFF WAVE, PCM of 16 bits")
    at, form = 12, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"fmt ":
            form = _form(body, part)
        elif name == b"data" and form is not None:
            return form, body
        at += 8 + size + size % 2
    raise _refused(part, "is a WAV file without samples", "damaged_sound", "send the file again")


def _form(body: bytes, part: str) -> _Form:
    if len(body) < 16:
        raise _refused(part, "is a WAV file with half a header", "damaged_sound", "send the file again")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        kind = int.from_bytes(body[24:26], "little")
    return _Form(kind, channels, rate, bits)


def _read_24(body: bytes) -> NDArray[np.float64]:
    triples = np.frombuffer(body, np.uint8).reshape(-1, 3).astype(np.int32)
    values = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
    return (values - ((values & 0x800000) << 1)) / float(1 << 23)


def _read_float(body: bytes) -> NDArray[np.float64]:
    return np.frombuffer(body, "<f4").astype(np.float64)


_READERS = {
    (_PCM, 8): lambda body: (np.frombuffer(body, np.uint8).astype(np.float64) - 128) / 128,
    (_PCM, 16): lambda body: np.frombuffer(body, "<i2").astype(np.float64) / (1 << 15),
    (_PCM, 24): _read_24,
    (_PCM, 32): lambda body: np.frombuffer(body, "<i4").astype(np.float64) / (1 << 31),
    (_FLOAT, 32): _read_float,
}


def _refused(part: str, what: str, reason: str, fix: str) -> CallerInputError:
    return CallerInputError(f"part {part!r} {what}", reason=reason, fix=fix, part=part)


def resampled_wave(sound: Sound, rate: int, *, part: str) -> Wave:
    """The sound at another rate: windowed sinc, polyphase; ⌈n · rate / old⌉ samples, as scipy.signal.resample_poly gives.

    Raises:
        CallerInputError: more than `SAMPLES` would come of it, or the two rates share too small a divisor.
    """
    shared = math.gcd(rate, sound.rate)
    up, down = rate // shared, sound.rate // shared
    if up == down:
        return sound.samples
    n = -(-len(sound.samples) * up // down)
    if n > SAMPLES:
        raise _refused(part, f"makes {n} samples at {rate} a second", "sound_length", f"send at most {SAMPLES}")
    if up * (2 * _ZEROS * max(up, down) // up + 3) > _WEIGHTS:
        raise _refused(
            part,
            f"has {sound.rate} samples a second, an odd rate beside {rate}",
            "unsupported_sound",
            "send a usual rate: 8000, 11025, 16000, 22050, 44100, 48000 …",
        )
    taps, bank = _bank(up, down)
    ahead = taps // 2
    padded = np.pad(sound.samples.astype(np.float64), (ahead, taps - ahead))
    windows = sliding_window_view(padded, taps)
    made = np.empty(n, np.float32)
    rows = max(1, _BLOCK // taps)
    for start in range(0, n, rows):
        at = np.arange(start, min(start + rows, n), dtype=np.int64) * down
        made[start : start + len(at)] = np.einsum("nt,nt->n", windows[at // up], bank[at % up])
    return made


@lru_cache(maxsize=8)
def _bank(up: int, down: int) -> tuple[int, NDArray[np.float64]]:
    """How many samples each output is made of, and their weights (up, taps), one row a phase.

    Output j is Σ x[i] h[j · down − i · up], h the sinc of cut-off 1 / max(up, down) under a Kaiser window.
    """
    widest = max(up, down)
    half = _ZEROS * widest
    places = np.arange(-half, half + 1)
    weights = np.sinc(places / widest) * np.kaiser(2 * half + 1, _BETA)
    weights *= up / weights.sum()
    reach = half // up
    taps = 2 * reach + 3
    ahead = taps // 2
    # Window element t of phase p is x[base − ahead + t], whose weight is h[p + (ahead − t) · up].
    lags = np.arange(up)[:, None] + (ahead - np.arange(taps))[None] * up
    inside = np.abs(lags) <= half
    return taps, np.where(inside, weights[np.clip(lags + half, 0, 2 * half)], 0.0)


def mel_filters(
    *, bins: int, mels: int, low_hz: float, high_hz: float, rate: int, scale: MelScale, equal_area: bool, in_mel: bool
) -> NDArray[np.float64]:
    """Triangular filters (bins, mels).

    Args:
        bins: of the spectrum: half the transform's length, and one.
        mels: how many filters.
        low_hz: where the first begins.
        high_hz: where the last ends.
        rate: samples a second.
        scale: O'Shaughnessy's (``htk``, ``kaldi``) or Slaney's.
        equal_area: each divided by its width (Slaney 1998).
        in_mel: triangles in mel (Kaldi, torchaudio) instead of in hertz.
    """
    edges = np.linspace(float(_mel(np.array(low_hz), scale)), float(_mel(np.array(high_hz), scale)), mels + 2)
    corners = edges if in_mel else _hertz(edges, scale)
    width = rate / ((bins - 1) * 2)
    places = _mel(width * np.arange(bins), scale) if in_mel else np.linspace(0, rate // 2, bins)
    slopes = corners[None, :] - places[:, None]
    gaps = np.diff(corners)
    made = np.maximum(0.0, np.minimum(-slopes[:, :-2] / gaps[:-1], slopes[:, 2:] / gaps[1:]))
    return made * (2.0 / (corners[2:] - corners[:-2])) if equal_area else made


def _mel(hertz: NDArray[np.floating[Any]], scale: MelScale) -> NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0), np.float64)
    if scale == "kaldi":
        return np.asarray(1127.0 * np.log(1.0 + hertz / 700.0), np.float64)
    above = 15.0 + np.log(np.maximum(hertz, 1e-9) / 1000.0) * (27.0 / np.log(6.4))
    return np.where(hertz >= 1000.0, above, 3.0 * hertz / 200.0)


def _hertz(mel: NDArray[np.floating[Any]], scale: MelScale) -> NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(700.0 * (np.power(10, mel / 2595.0) - 1.0), np.float64)
    if scale == "kaldi":
        return np.asarray(700.0 * (np.exp(mel / 1127.0) - 1.0), np.float64)
    return np.where(mel >= 15.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)), 200.0 * mel / 3.0)


def window_of(name: Window, length: int, *, periodic: bool) -> NDArray[np.float64]:
    """The weights (length,) of a frame's samples."""
    full = length + 1 if periodic else length
    match name:
        case "hann":
            weights = np.hanning(full)
        case "hamming":
            weights = np.hamming(full)
        case "povey":
            weights = np.hanning(full) ** 0.85
        case "box":
            weights = np.ones(full)
    return np.asarray(weights[:length], np.float64)


class Framing(NamedTuple):
    """How a wave becomes frames, and frames a spectrum."""

    window: NDArray[np.float64]
    hop: int
    transform: int
    """Length of the Fourier transform: the frame and zeros behind it."""
    centred: bool
    """The wave is mirrored at both ends, so that frame k is about sample k · hop."""
    power: float
    emphasis: float
    """Of each sample the one before it is taken off this many times; 0: not at all."""
    without_offset: bool
    """The mean of each frame is taken off."""


def log_bands(
    wave: Wave, how: Framing, filters: NDArray[np.float64], *, floor: float, kind: Logarithm, part: str
) -> NDArray[np.float32]:
    """The logarithm of the energy in each band of each frame, (frames, bands); ``floor`` stands for less than it.

    Raises:
        CallerInputError: the wave is shorter than one frame, or makes more than `_BANDS` numbers.
    """
    length = len(how.window)
    samples = wave.astype(np.float64)
    if how.centred and len(samples) > length // 2:
        samples = np.pad(samples, length // 2, mode="reflect")
    if len(samples) < length:
        raise _refused(part, f"is shorter than one frame of {length} samples", "sound_length", "send a longer sound")
    frames = sliding_window_view(samples, length)[:: how.hop]
    if len(frames) * filters.shape[1] > _BANDS:
        raise _refused(part, f"makes {len(frames)} frames", "sound_length", "send a shorter sound")
    made = np.empty((len(frames), filters.shape[1]), np.float32)
    rows = max(1, _BLOCK // (length + how.transform))
    for start in range(0, len(frames), rows):
        found = _spectrum(frames[start : start + rows].copy(), how)
        made[start : start + rows] = _logarithm(np.maximum(found @ filters, floor), kind)
    return made


def _spectrum(frames: NDArray[np.float64], how: Framing) -> NDArray[np.float64]:
    """(frames, transform // 2 + 1)"""
    if how.without_offset:
        frames -= frames.mean(axis=1, keepdims=True)
    if how.emphasis:
        frames[:, 1:] -= how.emphasis * frames[:, :-1].copy()
        frames[:, 0] *= 1 - how.emphasis
    # complex64 between transform and magnitude is what transformers' spectrogram has.
    found = np.fft.rfft(frames * how.window, how.transform).astype(np.complex64)
    return np.asarray(np.abs(found).astype(np.float64) ** how.power, np.float64)


def _logarithm(values: NDArray[np.float64], kind: Logarithm) -> NDArray[np.float32]:
    """Of positive numbers."""
    made = np.log(values) if kind == "ln" else np.log10(values) * (10.0 if kind == "db" else 1.0)
    return np.asarray(made, np.float32)
