"""What both models said, kept by task, seed and recipe, so that a second run trains nothing. Decides no figure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from outrider.bench.gate.rows import Measured, load, save
from outrider.bench.gate.tasks.base import GateTask
from outrider.progress import Tell

_ALWAYS = ("outrider.bench.gate.rows", "outrider.bench.gate.tasks.base")


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Where things are kept."""

    folder: Path
    data: Path | None = None
    """The person's own copy of a task's data; None: what was fetched."""

    def data_of(self, task: GateTask) -> Path | None:
        """Folder of the task's data; None when a Python package carries it."""
        if not task.data:
            return None
        return self.data or self.folder / "data" / task.data

    def fetch(self, task: GateTask) -> None:
        """Gets the task's data unless it is here.

        Raises:
            OperatorSetupError: it cannot be got.
        """
        if task.fetch is not None and self.data is None and not (self.folder / "data" / task.data).is_dir():
            task.fetch(self.folder / "data" / task.data)

    def measured(self, task: GateTask, seed: int, tell: Tell) -> Measured:
        """What both models said, from the shelf when this very recipe has run, else measured now and kept."""
        data = self.data_of(task)
        home = self.folder / "gate" / task.name
        file = home / f"seed-{seed}-{recipe(task, data)}.npz"
        if not file.is_file():
            save(task.measure(seed, data, home, tell), file)
        return load(file)


def recipe(task: GateTask, data: Path | None) -> str:
    """Changes when the text of a module that makes the task, a library's version, or the data do."""
    digest = hashlib.sha256(task.name.encode())
    for module in (*_ALWAYS, *task.made_by):
        digest.update(_text(module))
    for distribution in task.needs:
        digest.update(f"{distribution} {_version(distribution)}\n".encode())
    for line in _listing(data):
        digest.update(line.encode())
    return digest.hexdigest()[:12]


def _text(module: str) -> bytes:
    spec = find_spec(module)
    return Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def _listing(data: Path | None) -> Sequence[str]:
    """Names and sizes: enough to notice another data set, without reading it."""
    if data is None or not data.is_dir():
        return []
    return [f"{file.relative_to(data)} {file.stat().st_size}\n" for file in sorted(data.rglob("*")) if file.is_file()]
