"""Sounds for tests: tones as samples and as the bytes of a WAV file."""

import struct

import numpy as np
from numpy.typing import NDArray


def tone(
    hertz: float, *, seconds: float = 0.5, rate: int = 16_000, noise: float = 0.0, seed: int = 0
) -> NDArray[np.float64]:
    """A sine of half the full scale, and noise."""
    times = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * times) + noise * np.random.default_rng(seed).normal(size=len(times))


def wav(
    samples: NDArray[np.floating], *, rate: int = 16_000, bits: int = 16, channels: int = 1, kind: int = 1
) -> bytes:
    """A RIFF WAVE file of interleaved samples in −1..1."""
    clipped = np.clip(samples, -1, 1)
    if kind == 3:
        body = np.asarray(clipped, "<f4").tobytes()
    elif bits == 8:
        body = np.asarray(np.round(clipped * 127) + 128, np.uint8).tobytes()
    else:
        whole = np.asarray(np.round(clipped * ((1 << (bits - 1)) - 1)), "<i8").reshape(-1, 1).view(np.uint8)
        body = whole[:, : bits // 8].tobytes()
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
