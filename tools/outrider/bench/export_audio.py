"""Spoken digits as log-mel pictures, for `outrider.bench.export`: the Free Spoken Digit Dataset, as recorded. Measures nothing.

3,000 clips of six speakers, 8 kHz (CC BY-SA 4.0, https://github.com/Jakobovski/free-spoken-digit-dataset): bring your own copy.
"""

import wave
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.bench.export_models import Exportable, one_input, tensors
from outrider.bench.gate.networks import ConvNet, Fit, trained
from outrider.bench.gate.tasks.base import dealt
from outrider.progress import Tell
from outrider_wire.errors import OperatorSetupError
from outrider_wire.roles import Shares

RATE, BANDS, FRAMES, WINDOW, HOP = 8_000, 32, 62, 256, 125
SHARES = Shares(train=0.4, tuning=0.2, gate=0.05, certification=0.1, test=0.25)
RISK = 0.05
_SMALL_FIT = Fit(epochs=30, batch=32, learning_rate=5e-3, weight_decay=1e-2)
_LARGE_FIT = Fit(epochs=15, batch=64, learning_rate=3e-3, weight_decay=1e-2)


def digits(seed: int, data: Path | None, folder: Path, tell: Tell) -> list[Exportable]:
    """A small and a large convolutional net on one second of log-mel bands."""
    del folder
    files = sorted(data.rglob("*.wav")) if data is not None else []
    if not files:
        raise OperatorSetupError(
            f"the data of task digits are not here{f' at {data}' if data else ''}",
            reason="no_data",
            fix="get the Free Spoken Digit Dataset and name its folder: --data digits=DIR",
        )
    tell("log-mel of the clips", 0.0)
    values = np.stack([log_mel(_samples(file)) for file in files])[:, None]
    labels = np.asarray([int(file.name[0]) for file in files], np.int64)
    groups = [file.stem for file in files]
    roles = dealt(groups, key=f"digits-{seed}", shares=SHARES)
    every = tensors({"input": values}, labels, groups)
    tuning = every.take(roles["tuning"])
    found = []
    for name, channels, width, fit in (
        ("small", (8, 16, 24), 32, _SMALL_FIT),
        ("large", (24, 48, 96, 128), 128, _LARGE_FIT),
    ):
        module = trained(
            lambda channels=channels, width=width: ConvNet(  # type: ignore[misc]  # a lambda's default has no type
                space=(BANDS, FRAMES), channels=channels, strides=(2, 2, 2, 1)[: len(channels)], width=width, labels=10
            ),
            torch.from_numpy(values[roles["train"]]),
            labels[roles["train"]],
            fit,
            seed=seed,
            share=lambda done, name=name: tell(f"digits, {name} model", done),  # type: ignore[misc]  # as above
        )
        found.append(
            Exportable(
                name=f"digits-{name}",
                model=module,
                inputs=one_input(values),
                tuning=tuning,
                calibration=tuning.take(np.arange(min(len(tuning), 512))),
                support=every.take(roles["train"]),
                test=every.take(roles["test"]),
                risk=RISK,
            )
        )
    return found


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(BANDS, FRAMES) of the first second, about −1 to 1."""
    second = np.pad(samples[:RATE], (0, max(0, RATE - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(second, WINDOW)[::HOP][:FRAMES] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    bands = np.log(power @ _bank().T + 1e-5)
    return np.asarray((bands / 8 + 0.5).T, np.float32)


def _bank() -> NDArray[np.float64]:
    """(BANDS, WINDOW / 2 + 1) triangles, evenly spaced in mel from 60 Hz up."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    line = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (line - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - line) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None), np.float64)


def _samples(file: Path) -> NDArray[np.float32]:
    with wave.open(str(file)) as opened:
        return np.asarray(np.frombuffer(opened.readframes(opened.getnframes()), np.int16) / 32768, np.float32)
