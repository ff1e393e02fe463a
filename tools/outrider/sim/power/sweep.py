"""The sweep: one run of the real code on a disk that keeps a journal, then a power cut after every operation of it.

For each cut and each way that a disk may forget, the image is laid out in a folder and the real code starts on it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from outrider.sim.power.disk import MODELS, Cut, Image, Model, Op, cuts
from outrider.sim.power.lives import LIVES
from outrider.sim.power.mounted import Mounted
from outrider_wire.errors import OperatorSetupError

_RUN_S = 90.0
Tell = Callable[[float], None]


class Recorded(Struct, kw_only=True):
    """One run."""

    name: str
    work: str
    journal: list[Op]

    @property
    def syncs(self) -> list[int]:
        """Where in the journal a file or a folder is synced."""
        return [number for number, op in enumerate(self.journal) if op.kind in ("fsync", "fsyncdir")]

    def said(self, word: str) -> int:
        """How many promises begin with that word."""
        return sum(op.kind == "said" and op.data.decode().split()[0] == word for op in self.journal)


class Breach(Struct, kw_only=True, frozen=True):
    """A promise that a cut broke."""

    after: int
    model: Model
    what: str
    lost: bool


@contextmanager
def recorded(name: str) -> Iterator[Recorded]:
    """Runs one of `LIVES` to its end in a process of its own, on a disk of its own.

    Raises:
        OperatorSetupError: there is no FUSE here, or the run failed though no power was cut.
    """
    with tempfile.TemporaryDirectory(prefix="outrider-power-") as place:
        work = Path(place, "work")
        work.mkdir()
        LIVES[name].prepare(work)
        with Mounted(folder=Path(place, "disk")) as disk:
            command = [sys.executable, "-m", "outrider.sim.power.lives", name, str(disk.folder), str(work)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_S, check=False)
        if done.returncode:
            raise OperatorSetupError(
                f"{name} failed on a sound disk: {done.stderr.strip()[-2000:]}", reason="run_failed"
            )
        yield Recorded(name=name, work=str(work), journal=disk.journal)


def sweep(
    run: Recorded,
    *,
    models: Sequence[Model] = MODELS,
    every: int = 1,
    deaf: int | None = None,
    first_only: bool = False,
    tell: Tell = lambda _share: None,
) -> tuple[int, list[Breach]]:
    """Cuts the power; how many different disks that left, and every promise broken.

    Args:
        every: of so many disks one is looked at, and the last.
        deaf: a sync that the disk forgets.
        first_only: the first broken promise is enough.
    """
    seen, breaches = 0, list[Breach]()
    for number, model in enumerate(models):
        found = list(cuts(run.journal, model, deaf=deaf))
        for place, cut in enumerate(found):
            if place % every and place != len(found) - 1:
                continue
            tell((number + place / len(found)) / len(models))
            seen += 1
            breaches += _breaches(run, cut)
            if breaches and first_only:
                return seen, breaches
    return seen, breaches


def _breaches(run: Recorded, cut: Cut) -> list[Breach]:
    with tempfile.TemporaryDirectory(prefix="outrider-cut-", dir=_fast()) as place:
        lay_out(cut.image, Path(place))
        broken = LIVES[run.name].check(Path(place), cut.said, Path(run.work))
    return [Breach(after=cut.after, model=cut.model, what=one.what, lost=one.lost) for one in broken]


def lay_out(image: Image, folder: Path) -> None:
    """Writes an image as files."""
    for path, data in image.items():
        target = folder / path.strip("/")
        if data is None:
            target.mkdir()
        else:
            target.write_bytes(data)


def _fast() -> str | None:
    """Memory, where there is some: the images need not survive anything."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder with a random name is made in it
