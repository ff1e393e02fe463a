"""Ten kinds of garment through a turned, dim, noisy camera; a good large model, and a weak one.

Fashion-MNIST (MIT; Debian package ``dataset-fashion-mnist``): 70,000 pictures of 28 × 28. ``fashion``: the large model was
trained under a camera wider than the device's own. ``fashion-weak``: under one that is too narrow, so that it is worse than the
small model on many of the device's pictures and better on others.
"""

import gzip
import io
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from outrider.bench.gate.networks import ConvNet, Fit, known, trained
from outrider.bench.gate.rows import Floats, Measured
from outrider.bench.gate.tasks.base import GateTask, dealt, names, need_data
from outrider.bench.gate.tasks.pair import Captures, Pair
from outrider.progress import Tell
from outrider_wire.errors import OperatorSetupError
from outrider_wire.roles import Role, Shares, fraction_of

SIDE = 28
PACKAGE = "dataset-fashion-mnist"
FILES = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
CLOUD_ROWS = 12_000
DEVICE_ROWS = 10_000
SHARES = Shares(train=0.1, tuning=0.15, gate=0.05, certification=0.3, test=0.4)
STRANGE_ROWS = 500
LARGE_FIT = Fit(epochs=5, batch=128, learning_rate=4e-3, weight_decay=5e-3)
SMALL_FIT = Fit(epochs=60, batch=50, learning_rate=5e-3, weight_decay=5e-3)
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Ranges that every capture draws from, uniformly."""

    degrees: Range
    exposure: Range
    blur: Range
    """Share of a 3 × 3 mean mixed in."""
    noise: Range
    """Standard deviation as a share of full scale."""

    def __call__(self, pictures: Tensor, chance: Generator) -> Tensor:
        """One capture of each picture (n, 1, 28, 28) in 0..1."""
        n = len(pictures)
        angle = torch.deg2rad(_uniform(self.degrees, n, chance))
        zero = torch.zeros(n)
        turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], 1).view(n, 2, 3)
        grid = functional.affine_grid(turn, list(pictures.shape), align_corners=False)
        seen = functional.grid_sample(pictures, grid, align_corners=False)
        mixed = _column(_uniform(self.blur, n, chance))
        seen = seen * (1 - mixed) + functional.avg_pool2d(functional.pad(seen, (1, 1, 1, 1)), 3, 1) * mixed
        noise = torch.randn(seen.shape, generator=chance) * _column(_uniform(self.noise, n, chance))
        return (seen * _column(_uniform(self.exposure, n, chance)) + noise).clamp(0.0, 1.0)


DEVICE = Camera(degrees=(5, 35), exposure=(0.35, 0.8), blur=(0.3, 1.0), noise=(0.05, 0.12))
WIDE = Camera(degrees=(-40, 40), exposure=(0.3, 1.1), blur=(0.0, 1.0), noise=(0.0, 0.14))
NARROW = Camera(degrees=(-12, 12), exposure=(0.6, 1.1), blur=(0.0, 0.5), noise=(0.0, 0.05))
JITTER = Camera(degrees=(-8, 8), exposure=(0.85, 1.1), blur=(0.0, 0.1), noise=(0.0, 0.03))


def fetch(folder: Path) -> None:
    """Downloads Debian's package and unpacks its four files into ``folder``; needs no root.

    Raises:
        OperatorSetupError: there is no ``apt-get`` or ``dpkg-deb`` here, or it does not find the package.
    """
    with tempfile.TemporaryDirectory() as draft:
        try:
            subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=draft, check=True, capture_output=True)
            [archive] = Path(draft).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), draft], check=True, capture_output=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise OperatorSetupError(
                f"Debian's package {PACKAGE} could not be fetched: {error}",
                reason="fetch_failed",
                fix="run apt-get update and try again, or get Fashion-MNIST's four .gz files yourself and name them with --data",
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(draft).glob("usr/share/datasets/fashion-mnist/*.gz")):
            (folder / file.name).write_bytes(file.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Deals the pictures out, takes the device's captures, trains both models, and asks them."""

    task: str
    cloud: Camera
    """What the large model is trained under."""

    def __call__(self, seed: int, data: Path | None, folder: Path, tell: Tell) -> Measured:
        """One seed."""
        del folder
        pair, captures, roles, chance = self.made(seed, data, tell)
        return pair.measured(captures, roles, _strange(captures.inputs[roles["test"][:STRANGE_ROWS]], chance))

    def made(
        self, seed: int, data: Path | None, tell: Tell
    ) -> tuple[Pair, Captures, Mapping[Role, NDArray[np.int64]], Generator]:
        """Both models, what the device took, who may see which rows, and the chance that goes on from there."""
        pictures, labels = read(TASKS[self.task], data)
        order = sorted(range(len(labels)), key=lambda number: fraction_of(str(number), key=f"fashion-{seed}"))
        theirs, mine = np.asarray(order[:CLOUD_ROWS]), np.asarray(order[CLOUD_ROWS : CLOUD_ROWS + DEVICE_ROWS])
        chance = Generator().manual_seed(seed)
        taken = DEVICE(_tensor(pictures[mine]), chance)
        captures = Captures(
            inputs=taken, labels=labels[mine], groups=names("fashion", mine), payload_bytes=_png_bytes(taken)
        )
        roles = dealt(captures.groups, key=f"fashion-{seed}", shares=SHARES)
        large = trained(
            _large,
            _tensor(pictures[theirs]),
            labels[theirs],
            LARGE_FIT,
            seed=seed,
            augment=self.cloud,
            share=lambda done: tell("large model", done),
        )
        seen = captures.inputs[roles["train"]]
        small = trained(
            _small,
            seen,
            captures.labels[roles["train"]],
            SMALL_FIT,
            seed=seed,
            augment=JITTER,
            share=lambda done: tell("small model", done),
        )
        return Pair(small=small, large=large, known=known(small, seen), glance=_glance), captures, roles, chance


def read(task: GateTask, data: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All pictures (70,000, 28, 28) and labels.

    Raises:
        OperatorSetupError: the files are not there, or are not what they should be.
    """
    folder = need_data(task, data)
    try:
        pictures = [_idx(folder / file, 16).reshape(-1, SIDE, SIDE) for file in FILES]
        labels = [_idx(folder / file.replace("images-idx3", "labels-idx1"), 8) for file in FILES]
    except (OSError, ValueError, EOFError) as error:
        raise OperatorSetupError(
            f"{folder} does not hold Fashion-MNIST: {error}", reason="no_data", fix=task.how_to_get
        ) from error
    return np.concatenate(pictures), np.concatenate(labels).astype(np.int64)


def _idx(file: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(file) as opened:
        return np.frombuffer(opened.read(), np.uint8, offset=header)


def _large() -> ConvNet:
    return ConvNet(space=(SIDE, SIDE), channels=(24, 48, 64, 96), strides=(2, 2, 2, 1), width=128, labels=10)


def _small() -> ConvNet:
    return ConvNet(space=(SIDE, SIDE), channels=(8, 16, 24), strides=(2, 2, 2), width=32, labels=10)


def _strange(taken: Tensor, chance: Generator) -> dict[str, Tensor]:
    spectrum = torch.fft.fft2(taken)
    turned = torch.fft.fft2(torch.rand(taken.shape, generator=chance)).angle()
    scrambled = torch.fft.ifft2(torch.polar(spectrum.abs(), turned)).real.clamp(0.0, 1.0)
    return {
        "blank": torch.full_like(taken, 0.5),
        "black": torch.zeros_like(taken),
        "noise": torch.rand(taken.shape, generator=chance),
        "inverted": 1.0 - taken,
        "dark": taken / 4,
        "foreign": scrambled,
    }


def _glance(taken: Tensor) -> Floats:
    """Seven by seven means."""
    return np.asarray(functional.avg_pool2d(taken, 4).flatten(1).double().numpy(), np.float64)


def _png_bytes(taken: Tensor) -> NDArray[np.int64]:
    sizes = []
    for picture in (taken[:, 0] * 255).round().byte().numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        sizes.append(len(buffer.getvalue()))
    return np.asarray(sizes, np.int64)


def _tensor(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]


def _uniform(between: Range, n: int, chance: Generator) -> Tensor:
    return torch.rand(n, generator=chance) * (between[1] - between[0]) + between[0]


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _task(name: str, cloud: Camera, about: str) -> GateTask:
    return GateTask(
        name=name,
        about=about,
        risk=0.05,
        delta=0.05,
        measure=Measuring(task=name, cloud=cloud),
        made_by=(__name__, "outrider.bench.gate.networks", "outrider.bench.gate.tasks.pair"),
        needs=("torch",),
        data="fashion",
        fetch=fetch,
        how_to_get=(
            f"add --fetch to get Debian's package {PACKAGE} (31 MB, no root needed), "
            "or name a folder of its four .gz files with --data"
        ),
    )


TASKS = {
    task.name: task
    for task in (
        _task("fashion", WIDE, "ten garments, a turned and dim camera; a good large model"),
        _task(
            "fashion-weak", NARROW, "the same with a large model that never saw such a camera: weak, but complementary"
        ),
    )
}
