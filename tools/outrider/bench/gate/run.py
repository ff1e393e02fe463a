"""``outrider bench gate`` from names to figures: fetches, trains or takes what is kept, judges, draws. Prints nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.bench.gate.aims import Verdict, head_over_tasks, verdicts
from outrider.bench.gate.figures import GateFigures, figures
from outrider.bench.gate.kept import Shelf
from outrider.bench.gate.show import draw
from outrider.bench.gate.study import Prices, Study, study
from outrider.bench.gate.tasks.base import GateTask, need_data
from outrider.bench.gate.tasks.table import find_task
from outrider.progress import Tell
from outrider_wire.errors import OperatorConfigError


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """What to measure."""

    tasks: Sequence[str]
    seeds: int
    shelf: Shelf
    out: Path
    """For the pictures."""
    prices: Prices
    fetch: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of it."""

    studies: Sequence[Study]
    judged: Sequence[Sequence[Verdict]]
    together: Verdict | None
    """The aim that takes several tasks; None with one."""
    pictures: Sequence[Path]
    line: GateFigures


def measure(plan: GatePlan, tell: Tell) -> Found:
    """Everything that was asked for.

    Raises:
        OperatorError: a task, its data or a library is not there.
    """
    tasks = [find_task(name) for name in dict.fromkeys(plan.tasks)]
    _check_data(plan, tasks)
    studies = []
    for task in tasks:
        if plan.fetch and task.fetch is not None:
            tell(f"{task.name}: fetching the data", 0.0)
            plan.shelf.fetch(task)
            tell(f"{task.name}: fetching the data", 1.0)
        measured = {
            seed: plan.shelf.measured(task, seed, _named(tell, f"{task.name}, seed {seed}"))
            for seed in range(plan.seeds)
        }
        tell(f"{task.name}: judging", 0.0)
        studies.append(study(task, measured, plan.prices))
        tell(f"{task.name}: judging", 1.0)
    pictures = [plan.out / f"gate-{one.task.name}.png" for one in studies]
    for one, picture in zip(studies, pictures, strict=True):
        draw(one, picture)
    return Found(
        studies=studies,
        judged=[verdicts(one) for one in studies],
        together=head_over_tasks(studies) if len(studies) > 1 else None,
        pictures=pictures,
        line=figures(studies, plan.prices),
    )


def _check_data(plan: GatePlan, tasks: Sequence[GateTask]) -> None:
    """Refuses one folder for two data sets, and finds missing data before anything is trained.

    Raises:
        OperatorConfigError: ``--data`` could mean either.
        OperatorSetupError: the data of a task are not there and are not to be fetched.
    """
    wanted = {task.data for task in tasks if task.data}
    if plan.shelf.data is not None and len(wanted) > 1:
        raise OperatorConfigError(
            f"--data names one folder, and these tasks read {' and '.join(sorted(wanted))}",
            reason="ambiguous_data",
            fix="measure them one after the other",
        )
    for task in tasks:
        if task.data and not plan.fetch:
            need_data(task, plan.shelf.data_of(task))


def _named(tell: Tell, name: str) -> Tell:
    return lambda what, share: tell(f"{name}: {what}", share)
