"""Ten signal shapes through a sensor that the cloud's model never saw. The two models complement each other.

`mnist1d` (on PyPI, Apache-2.0) draws 40-sample signals of ten templates. The device's sensor is
coupled to alternating current (slow parts are lost), runs a little fast, drifts and is noisy. The large model learnt from
4,000 clean signals, the small one from 1,200 of the sensor's own.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from outrider.bench.gate.networks import ConvNet, Fit, known, trained
from outrider.bench.gate.rows import Floats, Ints, Measured
from outrider.bench.gate.tasks.base import GateTask, dealt, names
from outrider.bench.gate.tasks.pair import Captures, Pair
from outrider.progress import Tell
from outrider_wire.roles import Role, Shares

SAMPLES = 40
CLOUD_ROWS = 4000
DEVICE_ROWS = 8000
SHARES = Shares(train=0.15, tuning=0.125, gate=0.05, certification=0.3, test=0.375)
PAYLOAD_BYTES = 2 * SAMPLES
"""A signal as 16-bit integers."""
STRANGE_ROWS = 500
LARGE_FIT = Fit(epochs=25, batch=64, learning_rate=4e-3, weight_decay=1e-2)
SMALL_FIT = Fit(epochs=60, batch=32, learning_rate=5e-3, weight_decay=1e-2)


def measure(seed: int, data: Path | None, folder: Path, tell: Tell) -> Measured:
    """Draws the signals, trains both models, and asks them."""
    del data, folder
    pair, captures, roles, chance = made(seed, tell)
    return pair.measured(captures, roles, _strange(captures.inputs[roles["test"][:STRANGE_ROWS]], chance))


def made(seed: int, tell: Tell) -> tuple[Pair, Captures, Mapping[Role, Ints], Generator]:
    """Both models, what the device took, who may see which rows, and the chance that goes on from there."""
    clean, clean_labels = _signals(CLOUD_ROWS, 2 * seed)
    true, labels = _signals(DEVICE_ROWS, 2 * seed + 1)
    chance = Generator().manual_seed(seed)
    captures = Captures(
        inputs=_sensed(true, chance),
        labels=labels,
        groups=names("mnist1d", range(DEVICE_ROWS)),
        payload_bytes=np.full(DEVICE_ROWS, PAYLOAD_BYTES, np.int64),
    )
    roles = dealt(captures.groups, key=f"mnist1d-{seed}", shares=SHARES)
    large = trained(
        _large, clean, clean_labels, LARGE_FIT, seed=seed, augment=_mild, share=lambda done: tell("large model", done)
    )
    mine = captures.inputs[roles["train"]]
    small = trained(
        _small,
        mine,
        labels[roles["train"]],
        SMALL_FIT,
        seed=seed,
        augment=_mild,
        share=lambda done: tell("small model", done),
    )
    return Pair(small=small, large=large, known=known(small, mine), glance=_glance), captures, roles, chance


def _large() -> ConvNet:
    return ConvNet(space=(SAMPLES,), channels=(32, 64, 64), strides=(1, 2, 2), width=96, labels=10, kernel=5)


def _small() -> ConvNet:
    return ConvNet(space=(SAMPLES,), channels=(12, 16, 24), strides=(2, 2, 2), width=32, labels=10, kernel=5)


def _signals(rows: int, seed: int) -> tuple[Tensor, NDArray[np.int64]]:
    """(rows, 1, 40) and labels. The package draws from the global state of ``random`` and of numpy, which is put back."""
    import random

    from mnist1d.data import get_dataset_args, make_dataset

    ours, theirs = np.random.get_state(), random.getstate()
    try:
        arguments = get_dataset_args()
        arguments.num_samples, arguments.train_split, arguments.seed = rows, 1.0, seed
        drawn = make_dataset(arguments)
    finally:
        np.random.set_state(ours)
        random.setstate(theirs)
    return torch.from_numpy(drawn["x"]).float()[:, None], np.asarray(drawn["y"], np.int64)


def _sensed(signals: Tensor, chance: Generator) -> Tensor:
    """What the device's sensor makes of signals (n, 1, 40)."""
    n, _, samples = signals.shape
    ramp = torch.linspace(-1.0, 1.0, samples)
    place = (ramp * _uniform(0.85, 0.95, n, chance) + 1) / 2 * (samples - 1)
    before = place.floor().clamp(0, samples - 2).long()
    part = place - before
    seen = signals.gather(2, before) * (1 - part) + signals.gather(2, before + 1) * part
    slow = functional.avg_pool1d(functional.pad(seen, (4, 4), mode="replicate"), 9, 1)
    seen = (seen - _uniform(0.3, 0.8, n, chance) * slow) * _uniform(0.6, 1.4, n, chance)
    seen = seen + ramp * _uniform(-0.6, 0.6, n, chance)
    return seen + torch.randn(seen.shape, generator=chance) * _uniform(0.05, 0.2, n, chance)


def _mild(signals: Tensor, chance: Generator) -> Tensor:
    gained = signals * _uniform(0.8, 1.2, len(signals), chance)
    return gained + torch.randn(signals.shape, generator=chance) * 0.1


def _strange(signals: Tensor, chance: Generator) -> dict[str, Tensor]:
    n, _, samples = signals.shape
    turns = torch.linspace(0.0, 2 * torch.pi, samples) * _uniform(1.0, 6.0, n, chance)
    waves = torch.sign(torch.sin(turns + _uniform(0.0, 2 * torch.pi, n, chance)))
    return {
        "blank": torch.zeros_like(signals),
        "noise": torch.randn(signals.shape, generator=chance) * signals.std(),
        "inverted": -signals,
        "dark": signals / 4,
        "foreign": waves * signals.std(),
    }


def _glance(signals: Tensor) -> Floats:
    """The signal at half its rate."""
    return np.asarray(functional.avg_pool1d(signals, 2).flatten(1).double().numpy(), np.float64)


def _uniform(low: float, high: float, n: int, chance: Generator) -> Tensor:
    return torch.rand(n, 1, 1, generator=chance) * (high - low) + low


TASK = GateTask(
    name="mnist1d",
    about="ten signal shapes, a sensor that the large model never saw; two models that complement each other",
    risk=0.05,
    delta=0.05,
    measure=measure,
    made_by=(__name__, "outrider.bench.gate.networks", "outrider.bench.gate.tasks.pair"),
    needs=("mnist1d", "torch"),
)
TASKS = {TASK.name: TASK}
