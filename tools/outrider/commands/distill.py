"""``outrider distill``: a small model from a large one: the first from a folder of data, the next from what was escalated."""

from pathlib import Path
from typing import Annotated, Literal

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
    update: Annotated[
        Literal["auto", "full", "adapters"],
        typer.Option(
            help="Train every layer, or the last ones alone, which makes a delta small; auto: these where there is little to learn from."
        ),
    ] = "auto",
    deferral: Annotated[
        bool,
        typer.Option(
            "--deferral/--no-deferral",
            help="Learn a score of when to ask; as much training again; shipped only if it ranks errors better.",
        ),
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
        report = learning.run_round(
            work, base=base, out=out, hard=hard, update=update, deferral=deferral, seed=seed, threads=threads, tell=tell
        )
    screen.table(("on gate rows", "deployed", "candidate"), report.table())
    screen.table(
        ("check", "", "asked or before", "found"),
        [(each.name, "✓" if each.passed else "✗", f"{each.before:.3g}", f"{each.after:.3g}") for each in report.checks],
    )
    screen.result(report, report.verdict)
    if report.state == "refused":
        raise typer.Exit(3)


@app.command()
def fit(
    *,
    teacher: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The large model: a Hugging Face checkpoint's directory, a name (image-large), "
            "module:attr[#FILE.safetensors], FILE.onnx, or a bundle.",
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="The small one: the same; image-small, audio-small and text-small among the names."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE", help="Labelled pictures, sounds or texts, one sub-folder a class; or JSON lines."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")],
    task: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The task; default: what the folder states.")
    ] = None,
    risk: Annotated[
        float | None, typer.Option(min=0.0001, max=0.5, help="Most of what is kept that may be wrong, as a share.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=0.0001, max=0.5, help="Most probability that the certificate is wrong.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and certify a first small model, from labelled data.

    Writes everything that a system starts from: both models, the task, and the configuration of a device and a cloud."""
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    screen.note("loading PyTorch")
    import torch

    from outrider import fitting
    from outrider_export.side_by_side import COLUMNS, cells

    torch.set_num_threads(threads)
    stated = fitting.task_for(data, task, risk=risk, delta=delta)
    screen.note("looking at every input")
    with fitting.Fitting(task=stated, data=data, out=out, seed=seed) as work:
        foreseen = work.foresee()
        screen.note(f"task {stated.name}: {', '.join(f'{n} {role}' for role, n in foreseen.rows.items())} rows")
        for sentence in foreseen.sentences:
            screen.note(sentence)
        with bar(screen) as tell:
            report = work.run(teacher=teacher, student=student, tell=tell)
    commands = fitting.next_commands(out)
    screen.table((f"on {report.test_rows} test rows", ""), report.table())
    screen.table(COLUMNS, cells(report.sides))
    screen.result(
        {"task": stated.name, "out": str(out), "forecast": foreseen, **_fields(report), "next": commands},
        "\n".join([*report.sentences, "next, each in a terminal of its own:", *(f"  {each}" for each in commands)]),
    )


def _fields(struct: object) -> dict[str, object]:
    import msgspec

    found: dict[str, object] = msgspec.to_builtins(struct)
    return found
