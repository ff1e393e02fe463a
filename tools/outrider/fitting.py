"""What ``outrider distill fit`` does behind its flags: files to start from, roles, the ledger, then the fit. Prints nothing.

Loads torch: import it only to fit.
"""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from outrider.progress import Tell
from outrider_cloud.clock import now_ms
from outrider_cloud.config import load_cloud_config
from outrider_cloud.learning import ledger
from outrider_cloud.learning.opening import opened
from outrider_export.copies import check_copies
from outrider_export.fit import Allowance, Fit, FitReport
from outrider_export.readable import check_readable
from outrider_export.sources import from_folder, from_jsonl, passed_over, task_from_folder
from outrider_export.split import Forecast, foresee, split
from outrider_export.task_text import task_to_toml
from outrider_wire.certificate import DEFAULT_COVERAGES
from outrider_wire.errors import OperatorConfigError
from outrider_wire.roles import DEFAULT_SHARES
from outrider_wire.task import Task, parse_task

_EDGE = """\
# A device on this machine. Check it with: outrider config check edge.toml
device = "device-1"
data_dir = "edge"

[broker]
url = "mqtt://127.0.0.1:1883"

[api]
port = 8713

[[tasks]]
file = "task.toml"
bundle = "small"
"""
_CLOUD = """\
# The large model's side. Check it with: outrider config check cloud.toml
data_dir = "cloud"

[broker]
url = "mqtt://127.0.0.1:1883"

[api]
port = 8780

# Which group of examples is for what. Never change these: groups would move between training and certification.
[roles]
key_file = "roles.key"

[roles.shares]
{shares}

[[tasks]]
file = "task.toml"
large = "onnx:large"
strategy = "soft-prune"
"""


def task_for(data: Path, file: Path | None, *, risk: float | None = None, delta: float | None = None) -> Task:
    """The task in ``file``, else the one that a folder of labelled images states; its promise as ``risk`` and ``delta`` say.

    Raises:
        OperatorConfigError: there is none, or the promise is not one.
    """
    if file is None and not data.is_dir():
        raise OperatorConfigError(
            f"{data} does not say what its task is", reason="no_task", fix="add --task FILE, or give a folder of images"
        )
    task = parse_task(file.read_text("utf-8"), str(file)) if file else task_from_folder(data, task_name(data))
    policy = task.policy
    if risk is not None:
        policy = replace(policy, target_risk=risk)
    if delta is not None:
        policy = replace(policy, confidence=round(1 - delta, 12))
    return parse_task(task_to_toml(replace(task, policy=policy)), "command line")


def task_name(folder: Path) -> str:
    """A task name from a folder's: ``My Parts/`` → ``my-parts``."""
    name = folder.resolve().name.lower()
    return (
        "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name).strip("-")[:64] or "task"
    )


class Fitting:
    """One fit into the folder ``out``, where the files that a system starts from lie beside the models. A context manager.

    The certification rows that it uses are written down in the ledger of that folder's store, so that a second fit on the
    same rows pays for them, and a learning round takes others.
    """

    def __init__(self, *, task: Task, data: Path, out: Path, seed: int) -> None:
        self.task = task
        self._data = data
        self._out = out
        self._seed = seed
        self._stack = ExitStack()
        self._certification = 0

    def __enter__(self) -> Self:
        """Reads the rows, writes the files, opens the store, splits the rows. Nothing is written where the data cannot be used.

        Raises:
            OutriderError: a file, the store or the data cannot be used.
        """
        rows = (from_folder if self._data.is_dir() else from_jsonl)(self._data, self.task)
        check_readable(rows, self.task)
        write_files(self._out, self.task)
        try:
            config = load_cloud_config(self._out / "cloud.toml")
            self._work = self._stack.enter_context(opened(config, self.task.name))
            self._tables = split(rows, key=self._work.key, shares=self._work.shares)
            check_copies(self._tables["tuning"], self._tables["certification"])
        except BaseException:  # interrupted too: __exit__ is not called for what never entered
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the store."""
        self._stack.close()

    def foresee(self) -> Forecast:
        """What the data can certify; looks at no certification row."""
        found = foresee(self._tables, self.task)
        left = passed_over(self._data, self.task) if self._data.is_dir() else ""
        return replace(found, sentences=[*found.sentences, left]) if left else found

    def run(self, *, teacher: str, student: str, tell: Tell) -> FitReport:
        """Trains, exports, certifies and tests. Errors as `outrider_export.fit.Fit.run`."""
        fit = Fit(task=self.task, tables=self._tables, out=self._out, seed=self._seed, allow=self._allow, progress=tell)
        report = fit.run(teacher=teacher, student=student)
        if self._certification:
            named = partial(ledger.name_bundle, number=self._certification, bundle=report.small)
            self._work.library.store.submit(named).result()
        return report

    def _allow(self, groups: Sequence[str]) -> Allowance:
        take = partial(
            ledger.take,
            task=self.task.name,
            groups=groups,
            risk=self.task.policy.target_risk,
            delta=self.task.delta,
            coverages=DEFAULT_COVERAGES,
            now_ms=now_ms(),
        )
        taken = self._work.library.store.submit(take).result()
        self._certification = taken.number
        drawn = taken.drawn
        return Allowance(
            drawn.groups if drawn.enough else [],
            drawn.delta,
            "" if drawn.enough else drawn.shortage(self.task.policy.target_risk),
        )


def write_files(out: Path, task: Task) -> None:
    """``task.toml``, and where there are none yet ``roles.key``, ``edge.toml`` and ``cloud.toml``, in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "task.toml").write_text(task_to_toml(task), "utf-8")
    shares = "\n".join(f"{role} = {getattr(DEFAULT_SHARES, role)}" for role in DEFAULT_SHARES.__struct_fields__)
    key = out / "roles.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(f"{secrets.token_hex(32)}\n")
    for name, text in (("edge.toml", _EDGE), ("cloud.toml", _CLOUD.format(shares=shares))):
        if not (out / name).exists():
            (out / name).write_text(text)


def next_commands(out: Path) -> list[str]:
    """What to type next, each in a terminal of its own."""
    return [
        "outrider broker run",
        f"outrider cloud serve --config {out / 'cloud.toml'}",
        f"outrider edge run --config {out / 'edge.toml'}",
    ]
