"""Spoken digits through a poor microphone: writes the device's data, trains a large model for the cloud, and fits a small one.

Recordings named ``DIGIT_SPEAKER_TAKE.wav``, 8 kHz, mono, as the Free Spoken Digit Dataset has them. Takes 7, 8 and 9 of every ten are
the cloud's studio recordings, heard through six random lines each; the others come through the device's microphone. Usage:
``python trainer.py --data RECORDINGS -o OUT``.
"""

import argparse
import io
import os
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from math import log, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from outrider_export.augment import Jitter
from outrider_export.checkpoint import save_checkpoint
from outrider_export.data import Example, Table
from outrider_export.networks import channel_moments, convolution
from outrider_export.students import Architecture, new_module
from outrider_export.training import TrainingPlan, train
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.task import Task, parse_task

HERE = Path(__file__).parent
RATE = 8000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRAMES, MELS = 64, 32
STEPS = [
    Step(op="decode_audio"),
    Step(op="resample", args={"rate": RATE}),
    Step(
        op="log_mel",
        args={
            "mels": MELS,
            "window": 256,
            "hop": 125,
            "transform": 256,
            "low_hz": 60.0,
            "high_hz": RATE / 2,
            "floor": 1e-5,
            "centred": True,
        },
    ),
    Step(op="fit", args={"length": FRAMES, "value": log(1e-5)}),
    Step(op="normalize", args={"mean": [-4.0], "std": [3.0]}),
    Step(op="one_plane"),
]
"""One second as 64 frames of 32 bands up to 4 kHz: the same code in training, in the export and on the device."""


class DigitNet(nn.Module):
    """Log-mel frames (n, 1, 64, 32) → logits (n, 10). Unlike the shipped `audio-small` it knows what comes first in a word."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        sizes = (1, *channels)
        self.maps = nn.ModuleList(convolution(a, b, s) for a, b, s in zip(sizes, channels, strides, strict=False))
        left = (FRAMES // prod(strides)) * (MELS // prod(strides))
        self.dense = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels[-1] * left, width), nn.ReLU())
        self.head = nn.Linear(width, len(DIGITS))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.hidden(frames))
        return logits

    def hidden(self, frames: Tensor) -> Tensor:
        """What the last layer decides by."""
        hidden: Tensor = self.dense(self._mapped(frames)[-1])
        return hidden

    def pooled(self, frames: Tensor) -> tuple[Tensor]:
        """Mean and spread of the first and the last maps: what an input's distance from the known is taken on."""
        maps = self._mapped(frames)
        return (torch.cat([*channel_moments(maps[0], floor=1e-3), *channel_moments(maps[-1], floor=1e-3)], 1),)

    def _mapped(self, frames: Tensor) -> list[Tensor]:
        found = [frames - frames.mean((2, 3), keepdim=True)]  # how loud it is does not count
        for layer in self.maps:
            found.append(layer(found[-1]))
        return found[1:]


def network(name: str, plan: TrainingPlan, *sizes: Any) -> Architecture:
    """A `DigitNet` by name, with the steps that turn a sound into its frames."""
    return Architecture(
        name=name,
        inputs=lambda task: [ModelInput(part="audio", tensor="audio", steps=STEPS, shape=[1, FRAMES, MELS])],
        build=lambda task: DigitNet(*sizes),
        plan=plan,
    )


JITTER = Jitter(translate=3)
LARGE_PLAN = TrainingPlan(epochs=10, subjects=64, learning_rate=3e-3, weight_decay=1e-2, jitter=JITTER)
SMALL_PLAN = TrainingPlan(epochs=60, subjects=32, learning_rate=5e-3, weight_decay=1e-2, jitter=JITTER)
LARGE = network("digits-large", LARGE_PLAN, (24, 40, 64, 96), (2, 1, 2, 2), 128)
SMALL = network("digits-small", SMALL_PLAN, (8, 16, 16), (2, 2, 2), 32)
Samples = NDArray[np.float64]
Take = tuple[str, Samples, int]
"""Label, samples in −1..1, number of the take."""


def takes(folder: Path) -> list[Take]:
    """Every recording of the folder."""
    found = []
    for file in sorted(folder.glob("?_*_*.wav")):
        digit, _, take = file.stem.split("_")
        with wave.open(str(file)) as opened:
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")[:RATE] / 32768
        found.append((DIGITS[int(digit)], samples, int(take)))
    return found or sys.exit(f"{folder} holds no recordings named DIGIT_SPEAKER_TAKE.wav")


def device_microphone(samples: Samples, chance: Generator) -> Samples:
    """Dull, clipped, in a noisy room (3 to 15 dB)."""
    dull = np.convolve(samples, np.ones(3) / 3, "same")
    clipped = np.clip(dull / (np.abs(dull).max() + 1e-6) * chance.uniform(0.8, 2.0), -0.9, 0.9)
    return clipped + _noise(clipped, chance, hum=1.0, hiss=2.0, decibels=chance.uniform(3, 15))


def any_line(samples: Samples, chance: Generator) -> Samples:
    """Any speed, start, dullness, gain and noise (0 to 30 dB): what the cloud's owner expects of devices never met."""
    spoken = np.interp(np.arange(0, len(samples), chance.uniform(0.8, 1.25)), np.arange(len(samples)), samples)
    taps = int(chance.integers(1, 5))
    dull = np.convolve(np.pad(spoken, (int(chance.integers(0, 1500)), 0)), np.ones(taps) / taps, "same")
    clipped = np.clip(dull / (np.abs(dull).max() + 1e-6) * chance.uniform(0.6, 2.5), -0.95, 0.95)
    hum, hiss = chance.uniform(0, 1), chance.uniform(0.2, 1)
    return clipped + _noise(clipped, chance, hum=hum, hiss=hiss, decibels=chance.uniform(0, 30))


def _noise(heard: Samples, chance: Generator, *, hum: float, hiss: float, decibels: float) -> Samples:
    wandering = np.cumsum(chance.normal(size=len(heard)))
    wandering -= np.convolve(wandering, np.ones(201) / 201, "same")[: len(heard)]
    noise = hum * wandering / (wandering.std() + 1e-9) + hiss * chance.normal(size=len(heard))
    return noise / noise.std() * heard.std() * 10 ** (-decibels / 20)


def wav(samples: Samples) -> bytes:
    """A file, half as loud as it may be."""
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setparams((1, 2, RATE, 0, "NONE", ""))
        opened.writeframes((samples / np.abs(samples).max() * 16384).astype("<i2").tobytes())
    return file.getvalue()


def write_folder(folder: Path, rows: Iterator[tuple[str, bytes]]) -> None:
    """One sub-folder a class."""
    for number, (label, sound) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:05}.wav").write_bytes(sound)


def train_large(task: Task, rows: Iterator[tuple[str, bytes]], file: Path) -> None:
    """The weights of `LARGE`, trained on these sounds."""
    examples = (Example({"audio": sound}, task.labels.index(label), str(n)) for n, (label, sound) in enumerate(rows))
    tensors = Table.from_examples(examples).tensors(LARGE.inputs(task), task.inputs)
    module = new_module(LARGE, task, seed=0)
    train(module, tensors, LARGE.plan, seed=0, progress=lambda what, share: print(f"large: {what} {share:.0%}"))
    save_checkpoint(file, module, "trainer:LARGE")


def main() -> None:
    """Data, large model, small model."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, required=True, help="folder of the recordings")
    asked.add_argument("-o", "--out", type=Path, required=True)
    asked.add_argument("--lines", type=int, default=6, help="that the cloud hears every studio take through")
    given = asked.parse_args()
    torch.set_num_threads(1)
    task = parse_task((HERE / "task.toml").read_text(), "task.toml")
    chance, every = np.random.default_rng(0), takes(given.data)
    studio = [take for take in every if take[2] % 10 >= 7]
    ours, shown = (
        [take for take in every if (take[2] % 10 < 7) and (take[2] == 1) == stream] for stream in (False, True)
    )
    write_folder(given.out / "device", ((label, wav(device_microphone(raw, chance))) for label, raw, _ in ours))
    write_folder(given.out / "stream", ((label, wav(device_microphone(raw, chance))) for label, raw, _ in shown))
    heard = ((label, wav(any_line(raw, chance))) for _ in range(given.lines) for label, raw, _ in studio)
    train_large(task, heard, given.out / "large.safetensors")
    fit = ["distill", "fit", "--task", str(HERE / "task.toml"), "--data", str(given.out / "device")]
    fit += ["--teacher", f"trainer:LARGE#{given.out / 'large.safetensors'}", "--student", "trainer:SMALL"]
    here = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "outrider", *fit, "-o", str(given.out / "fit")]
    sys.exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": here}, check=False).returncode)


if __name__ == "__main__":
    main()
