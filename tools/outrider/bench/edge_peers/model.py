"""The model that all servers of the comparison serve: a convolutional net of some 25,000 parameters on 3 KB of numbers.

Small on purpose: what a server adds to a model is seen best where the model itself takes next to nothing.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outrider.progress import Tell
from outrider_export.build import build_bundle
from outrider_export.data import Example, Table
from outrider_export.students import Architecture, new_module
from outrider_export.task_text import task_to_toml
from outrider_export.training import TrainingPlan, train
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.task import AnswerSpace, InputPart, Task

ROWS, CHANNELS, LABELS = 256, 3, 10
BODY_BYTES = 4 * ROWS * CHANNELS
_TAUGHT, _CHOSEN, _CERTIFIED = 1200, 300, 600
TASK = Task(
    name="tones",
    inputs=[InputPart(name="numbers", modality="series", max_bytes=BODY_BYTES)],
    answer=AnswerSpace(labels=[f"tone-{number}" for number in range(LABELS)]),
)


class Served(NamedTuple):
    """What is served, and what by: two releases of one task."""

    task: Path
    first: Path
    second: Path
    example: bytes
    """One input: `BODY_BYTES`."""


class ToneNet(nn.Module):
    """(n, 256, 3) → logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((CHANNELS, 16), (16, 32), (32, 48))
        self.maps = nn.Sequential(
            *(nn.Sequential(nn.Conv1d(a, b, 5, 2, 2), nn.BatchNorm1d(b), nn.ReLU()) for a, b in sizes)
        )
        self.head = nn.Linear(48 * ROWS // 8, LABELS)

    def forward(self, numbers: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.maps(numbers.transpose(1, 2)).flatten(1))
        return logits

    def pooled(self, numbers: Tensor) -> tuple[Tensor]:
        """Mean and maximum of each map."""
        maps = self.maps(numbers.transpose(1, 2))
        return (torch.cat([maps.mean(2), maps.amax(2)], 1),)


def build(folder: Path, tell: Tell) -> Served:
    """Trains two releases and writes them, with their task, into ``folder``."""
    first, second = (_release(folder / f"release-{seed}", seed, tell) for seed in (1, 2))
    (folder / "task.toml").write_text(task_to_toml(TASK))
    example = _tones(np.random.default_rng(9), 1)[0].parts["numbers"]
    assert isinstance(example, bytes)  # noqa: S101 - as `_tones` makes them
    return Served(folder / "task.toml", first, second, example)


def _release(out: Path, seed: int, tell: Tell) -> Path:
    chance = np.random.default_rng(seed)
    taught, chosen, certified = (
        Table.from_examples(_tones(chance, n, name)) for n, name in ((_TAUGHT, "t"), (_CHOSEN, "c"), (_CERTIFIED, "v"))
    )
    plan = TrainingPlan(epochs=6, subjects=32, learning_rate=5e-3, weight_decay=1e-3)
    architecture = Architecture(name="tone-net", inputs=_inputs, build=lambda task: ToneNet(), plan=plan)
    module = new_module(architecture, TASK, seed=seed)
    train(module, taught.tensors(_inputs(TASK)), plan, seed=seed)
    build_bundle(
        task=TASK,
        model=module,
        architecture=architecture,
        tuning=chosen,
        certification=certified,
        support=taught,
        out=out,
        version=str(seed),
        precisions=("fp32",),
        progress=lambda what, share: tell(f"release {seed}: {what}", share),
    )
    return out


def _inputs(task: Task) -> list[ModelInput]:
    steps = [Step(op="decode_series", args={"channels": CHANNELS}), Step(op="fit", args={"length": ROWS})]
    return [ModelInput(part=task.inputs[0].name, tensor="numbers", steps=steps, shape=[ROWS, CHANNELS])]


def _tones(chance: np.random.Generator, n: int, name: str = "") -> list[Example]:
    """``n`` noisy tones; the label is the pitch."""
    labels: NDArray[np.int64] = chance.integers(0, LABELS, n)
    time = np.arange(ROWS)[None, :, None] * 2 * math.pi / ROWS
    phase = chance.uniform(0, 2 * math.pi, (n, 1, CHANNELS))
    waves = np.sin(time * (2 * labels + 2)[:, None, None] + phase) + chance.normal(0, 0.5, (n, ROWS, CHANNELS))
    data = waves.astype("<f4")
    return [
        Example({"numbers": row.tobytes()}, int(label), f"{name}{place}")
        for place, (row, label) in enumerate(zip(data, labels, strict=True))
    ]
