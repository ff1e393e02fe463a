"""``outrider distill``: a small model from a large one: the first from a folder of data, the next from what was escalated."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import CloudFile, Json, Quiet, TaskName, group
from outrider.output import Screen

app = group("Train small models from a large one, and from escalations.")

Seed = Annotated[int, typer.Option(help="Of batches and augmentation; the same seed gives the same model.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of training.")]


@app.command()
def run(
    *,
    task: TaskName,
    base: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="The deployed bundle; BUNDLE.safetensors lies beside it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where a promoted bundle goes.")],
    config: CloudFile = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Learn the large model's answers, not its distributions.")
    ] = False,
    seed: Seed = 0,
    threads: Threads = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One learning round: distil, gate, certify. Exit code 3: refused, with the figures that decided it."""
    from outrider import learning
    from outrider.progress import bar
    from outrider_cloud.learning.opening import opened

    screen = Screen(json=json, quiet=quiet)
    with opened(learning.cloud_config(config), task) as work, bar(screen) as tell:
        report = learning.run_round(work, base=base, out=out, hard=hard, seed=seed, threads=threads, tell=tell)
    screen.table(("on gate rows", "deployed", "candidate"), report.table())
    screen.table(
        ("check", "", "asked or before", "found"),
        [(each.name, "✓" if each.passed else "✗", f"{each.before:.3g}", f"{each.after:.3g}") for each in report.checks],
    )
    screen.result(report, report.verdict)
    if report.state == "refused":
        raise typer.Exit(3)
