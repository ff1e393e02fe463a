"""Spoken digits through a poor microphone: writes the device's data, trains a large model for the cloud, and fits a small one.

Recordings named ``DIGIT_SPEAKER_TAKE.wav``, 8 kHz, mono, as the Free Spoken Digit Dataset has them. Takes 7, 8 and 9 of every ten are
the cloud's studio recordings, heard through six random lines each; the others come through the device's microphone. Usage:
``python trainer.py --data RECORDINGS -o OUT``. This folder needs nothing of the other examples.
"""

import argparse
import io
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from microphones import Samples, any_line, device_microphone
from network import DIGITS, LARGE, RATE

from outrider_export.checkpoint import save_checkpoint
from outrider_export.data import Example, Table
from outrider_export.students import new_module
from outrider_export.training import train
from outrider_wire.task import Task, parse_task

HERE = Path(__file__).parent
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
    save_checkpoint(file, module, "network:LARGE")


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
    fit += ["--teacher", f"network:LARGE#{given.out / 'large.safetensors'}", "--student", "network:SMALL"]
    here = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "outrider", *fit, "-o", str(given.out / "fit")]
    sys.exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": here}, check=False).returncode)


if __name__ == "__main__":
    main()
