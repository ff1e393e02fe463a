"""The steps of sounds: decode, resample, cut, standardise, frames, log-mel. Rows of `outrider_wire.step_table`."""

from dataclasses import replace
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from outrider_wire.sounds import (
    RATES,
    Framing,
    Logarithm,
    MelScale,
    Wave,
    Window,
    decode_wav,
    log_bands,
    mel_filters,
    resampled_wave,
    window_of,
)
from outrider_wire.step import Finite, Flow, Function, Length, Positive, StepOp

Rate = Annotated[int, Meta(ge=RATES[0], le=96_000)]
Hertz = Annotated[float, Meta(ge=0, le=192_000)]
Transform = Annotated[int, Meta(ge=2, le=1 << 16)]


class DecodeAudio(StepOp, kw_only=True, frozen=True):
    """WAV bytes (PCM or 32-bit float) → sound: one channel, −1..1, at the file's own rate."""

    takes = frozenset({"raw"})

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """How many samples there are stays open."""
        part = flow.part
        return lambda data: decode_wav(data, part=part), replace(flow, kind="sound", shape=(None,))


class Resample(StepOp, kw_only=True, frozen=True):
    """Sound → wave (samples,) at that rate."""

    takes = frozenset({"sound"})
    rate: Rate

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A sound that has this rate already stays as it is."""
        part, rate = flow.part, self.rate
        return lambda sound: resampled_wave(sound, rate, part=part), replace(flow, kind="wave", rate=rate)


class Trim(StepOp, kw_only=True, frozen=True):
    """Wave, frames or series → its first ``length`` samples, frames or rows; what is shorter stays as it is."""

    takes = frozenset({"wave", "frames", "series"})
    length: Length

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The length stays open: it is at most this."""
        length = self.length
        return lambda value: value[:length], replace(flow, shape=(None, *flow.shape[1:]))


class Fit(StepOp, kw_only=True, frozen=True):
    """Wave, frames or series → exactly ``length`` along the first axis: the first (or ``last``) of them, or ``value`` after
    (before) what there is."""

    takes = frozenset({"wave", "frames", "series"})
    length: Length
    value: Finite = 0.0
    last: bool = False

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """From here on the length is known."""
        length, value, last = self.length, np.float32(self.value), self.last

        def fit(array: NDArray[np.float32]) -> NDArray[np.float32]:
            kept = array[-length:] if last else array[:length]
            missing = length - len(kept)
            if not missing:
                return kept
            around = [(missing, 0) if last else (0, missing), *[(0, 0)] * (array.ndim - 1)]
            return np.pad(kept, around, constant_values=value)

        return fit, replace(flow, shape=(length, *flow.shape[1:]))


class Standardize(StepOp, kw_only=True, frozen=True):
    """Wave → (wave − its mean) / √(its variance + ``floor``): what loudness and offset were is gone."""

    takes = frozenset({"wave"})
    floor: Positive = 1e-7

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Over all the samples that come before padding."""
        floor = self.floor

        def standardize(wave: Wave) -> Wave:
            return np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + floor), np.float32)

        return standardize, flow


class LogMel(StepOp, kw_only=True, frozen=True):
    """Wave → frames (frames, mels): the logarithm of the energy in each mel band of each frame."""

    takes = frozenset({"wave"})
    mels: Annotated[int, Meta(ge=1, le=512)]
    window: Transform
    """Samples of a frame."""
    hop: Annotated[int, Meta(ge=1, le=1 << 16)]
    transform: Transform
    low_hz: Hertz = 0.0
    high_hz: Hertz
    shape: Window = "hann"
    periodic: bool = True
    centred: bool = False
    power: Annotated[float, Meta(ge=0.5, le=4)] = 2.0
    emphasis: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    without_offset: bool = False
    scale: MelScale = "htk"
    equal_area: bool = False
    in_mel: bool = False
    floor: Positive = 1e-10
    log: Logarithm = "ln"

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The filters are made once."""
        if self.window > self.transform:
            raise ValueError("the window is longer than the transform")
        if not self.low_hz < self.high_hz <= flow.rate / 2:
            raise ValueError(f"low_hz, high_hz and half of the rate {flow.rate} must rise in this order")
        part, floor, kind = flow.part, self.floor, self.log
        filters = mel_filters(
            bins=self.transform // 2 + 1,
            mels=self.mels,
            low_hz=self.low_hz,
            high_hz=self.high_hz,
            rate=flow.rate,
            scale=self.scale,
            equal_area=self.equal_area,
            in_mel=self.in_mel,
        )
        how = Framing(
            window=window_of(self.shape, self.window, periodic=self.periodic),
            hop=self.hop,
            transform=self.transform,
            centred=self.centred,
            power=self.power,
            emphasis=self.emphasis,
            without_offset=self.without_offset,
        )

        def log_mel(wave: Wave) -> NDArray[np.float32]:
            return log_bands(wave, how, filters, floor=floor, kind=kind, part=part)

        return log_mel, replace(flow, kind="frames", shape=(None, self.mels))


class ClampBelowPeak(StepOp, kw_only=True, frozen=True):
    """Frames → frames in which nothing lies further than ``below`` under the loudest."""

    takes = frozenset({"frames"})
    below: Positive

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Of each input its own."""
        below = np.float32(self.below)
        return lambda frames: np.maximum(frames, frames.max() - below), flow


class Transpose(StepOp, kw_only=True, frozen=True):
    """Frames (frames, bins) → (bins, frames), contiguous."""

    takes = frozenset({"frames"})

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A copy."""
        return lambda frames: np.ascontiguousarray(frames.T), replace(flow, shape=flow.shape[::-1])


class OnePlane(StepOp, kw_only=True, frozen=True):
    """Frames (a, b) → planes (1, a, b): a picture of the sound, for a convolutional net."""

    takes = frozenset({"frames", "series"})

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A view."""
        return lambda frames: frames[None], replace(flow, kind="planes", shape=(1, *flow.shape))


class SampleMask(StepOp, kw_only=True, frozen=True):
    """Wave → tokens (length,): 1 for each of its samples, 0 for what `Fit` of the same length puts behind them."""

    takes = frozenset({"wave"})
    length: Length

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """For models that are told where the sound ends."""
        length = self.length
        return (
            lambda wave: (np.arange(length) < len(wave)).astype(np.int64),
            replace(flow, kind="tokens", shape=(length,), silent=frozenset()),
        )
