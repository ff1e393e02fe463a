"""Garments through a dim, turned camera: writes the device's data, trains a large model for the cloud, and fits a small one.

Fashion-MNIST (70,000 grey pictures of 28 × 28). The cloud's pictures are the owner's own, seen through a wide range of cameras;
the device's all come through its one poor camera. Usage: ``python trainer.py --data FOLDER -o OUT``. This folder needs nothing of the
other examples.
"""

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from outrider.bench.gate.tasks import fashion
from outrider_export.augment import Jitter
from outrider_export.checkpoint import save_checkpoint
from outrider_export.data import Example, Table
from outrider_export.networks import Shape
from outrider_export.students import new_module, student
from outrider_export.training import TrainingPlan, train
from outrider_wire.task import Task, parse_task

HERE = Path(__file__).parent
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
"""In the data set's order."""
JITTER = Jitter(translate=2, gain=0.1, noise=0.03)
LARGE = student(
    "garments-large",
    Shape(image=28, channels=(32, 64, 96), strides=(2, 2, 1), width=128),
    TrainingPlan(epochs=4, subjects=64, learning_rate=3e-3, weight_decay=5e-3, jitter=JITTER),
)
SMALL = student(
    "garments-small",
    Shape(image=28, channels=(8, 16, 24), strides=(2, 2, 2), width=32),
    TrainingPlan(epochs=40, subjects=32, learning_rate=4e-3, weight_decay=1e-2, jitter=JITTER),
)


def captures(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64], camera: fashion.Camera, seed: int
) -> Iterator[tuple[str, bytes]]:
    """(class, PNG) of one capture of every picture."""
    clean = torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]
    taken = (camera(clean, torch.Generator().manual_seed(seed))[:, 0] * 255).round().byte().numpy()
    for picture, label in zip(taken, labels, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        yield CLASSES[label], file.getvalue()


def write_folder(folder: Path, rows: Iterator[tuple[str, bytes]]) -> None:
    """One sub-folder a class."""
    for number, (label, png) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:05}.png").write_bytes(png)


def train_large(task: Task, rows: Iterator[tuple[str, bytes]], file: Path) -> None:
    """The weights of `LARGE`, trained on these captures."""
    examples = (Example({"image": png}, task.labels.index(label), str(n)) for n, (label, png) in enumerate(rows))
    tensors = Table.from_examples(examples).tensors(LARGE.inputs(task), task.inputs)
    module = new_module(LARGE, task, seed=0)
    train(module, tensors, LARGE.plan, seed=0, progress=lambda what, share: print(f"large: {what} {share:.0%}"))
    save_checkpoint(file, module, "trainer:LARGE")


def main() -> None:
    """Data, large model, small model."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, required=True, help="folder of the four .gz files (see get_data.sh)")
    asked.add_argument("-o", "--out", type=Path, required=True)
    asked.add_argument("--rows", type=int, default=4000, help="of the device; the cloud has six times as many")
    given = asked.parse_args()
    torch.set_num_threads(1)
    task = parse_task((HERE / "task.toml").read_text(), "task.toml")
    pictures, labels = fashion.read(fashion.TASKS["fashion"], given.data)
    order = np.random.default_rng(0).permutation(len(labels))
    ours, shown, theirs = np.split(order[: 7 * given.rows + 100], [given.rows, given.rows + 100])
    write_folder(given.out / "device", captures(pictures[ours], labels[ours], fashion.DEVICE, 0))
    write_folder(given.out / "stream", captures(pictures[shown], labels[shown], fashion.DEVICE, 1))
    train_large(task, captures(pictures[theirs], labels[theirs], fashion.WIDE, 2), given.out / "large.safetensors")
    fit = ["distill", "fit", "--task", str(HERE / "task.toml"), "--data", str(given.out / "device")]
    fit += ["--teacher", f"trainer:LARGE#{given.out / 'large.safetensors'}", "--student", "trainer:SMALL"]
    here = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "outrider", *fit, "-o", str(given.out / "fit")]
    sys.exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": here}, check=False).returncode)


if __name__ == "__main__":
    main()
