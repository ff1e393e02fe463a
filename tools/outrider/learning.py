"""What ``outrider data`` and ``outrider distill run`` do behind their flags. Prints nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider import start
from outrider.progress import Tell
from outrider.settings_files import FileKind
from outrider_cloud.config import CloudConfig, load_cloud_config
from outrider_cloud.learning.opening import OpenTask
from outrider_cloud.store import examples

if TYPE_CHECKING:
    from outrider_cloud.learning.candidate import Asked
    from outrider_cloud.learning.report import RoundReport


def cloud_config(file: Path | None) -> CloudConfig:
    """The cloud's configuration, as ``outrider cloud serve`` would read it.

    Raises:
        OperatorConfigError: there is none, or it does not hold what it must.
    """
    return load_cloud_config(start.file_of(FileKind.CLOUD, file, {}), start.overrides(FileKind.CLOUD, {}))


def stock(work: OpenTask) -> dict[str, Any]:
    """Counts of a task's examples, and what its labelled certification rows can certify."""
    from outrider_export.promises import forecast
    from outrider_wire.groups import usable_rows

    task, library = work.task, work.library
    counts = dict(library.store.run(lambda connection: examples.stats(connection, task.name)))
    groups = library.certifiable_groups()
    rows, most = usable_rows(groups)
    counts["certifiable_groups"] = len(set(groups))
    counts["forecast"] = forecast(rows, task.policy.target_risk, task.delta, rows_a_group=most)
    return counts


def run_round(
    work: OpenTask,
    *,
    base: Path,
    out: Path,
    hard: bool,
    update: "Asked",
    deferral: bool,
    seed: int,
    threads: int,
    tell: Tell,
) -> "RoundReport":
    """One learning round with the default plan; errors as `outrider_cloud.learning.round.run_round`."""
    import torch

    from outrider_cloud.learning.round import RoundPlan, run_round
    from outrider_export.distil import DistilPlan

    torch.set_num_threads(threads)
    plan = RoundPlan(
        base=base,
        out=out,
        seed=seed,
        threads=threads,
        distil=DistilPlan(targets="hard" if hard else "soft"),
        update=update,
        deferral=deferral,
    )
    return run_round(work, plan, tell)
