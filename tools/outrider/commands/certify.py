"""``outrider certify``: what may be promised of rows, of a finished bundle, or out of audits; and what labels would buy."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.certify_modes import check_read, check_together, mode_of
from outrider.commands.options import Json, Quiet
from outrider.output import Screen
from outrider_wire.errors import OperatorConfigError

if TYPE_CHECKING:
    from outrider.bundle_certifying import BundleCertification
    from outrider_export.ruling import Ruling

app = typer.Typer(rich_markup_mode=None, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


class LabelSource(StrEnum):
    """Whose labels the rows carry: what the certificate is about."""

    GROUND_TRUTH = "ground_truth"
    LARGE_MODEL = "large_model"


@app.command()
def certify(
    context: typer.Context,
    *,
    source: Annotated[Path | None, typer.Argument(metavar="BUNDLE|ROWS.csv", help="What is to be certified.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE", help="Labelled rows for a bundle: sub-folders, or JSON lines."),
    ] = None,
    risk: Annotated[
        float | None, typer.Option(min=0.0001, max=0.5, help="r*: most of what is kept that may be wrong.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=0.0001, max=0.5, help="Most probability that the certificate is wrong.")
    ] = None,
    label_source: Annotated[LabelSource, typer.Option(help="Whose labels the rows carry.")] = LabelSource.GROUND_TRUTH,
    group: Annotated[
        str, typer.Option(metavar="COL", help="Column of what rows belong to: clip, event, picture.")
    ] = "",
    score_col: Annotated[str, typer.Option(metavar="COL", help="Column of the score; higher is surer.")] = "score",
    correct_col: Annotated[str, typer.Option(metavar="COL", help="Column of 1 or 0: is the answer right?")] = "correct",
    min_gap: Annotated[float, typer.Option(min=0.0, help="Seconds within which rows need a group.")] = 5.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="BUNDLE", help="Where the certified copy goes.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write into BUNDLE itself.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(envvar="OUTRIDER_CLOUD_CONFIG", help="cloud.toml: its ledger counts uses, its store has audits."),
    ] = None,
    task: Annotated[str, typer.Option(metavar="NAME", help="The task in cloud.toml; default: the bundle's.")] = "",
    task_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The task, for a bundle that does not carry it.")
    ] = None,
    audits: Annotated[
        bool, typer.Option("--from-audits", help="Certify the bundle out of the audits in the cloud's store.")
    ] = False,
    teacher: Annotated[str, typer.Option(metavar="NAME", help="Audits judged by this large model only.")] = "",
    threshold: Annotated[
        list[float] | None, typer.Option(help="With --from-audits: one to try; repeat it. Choose before you look.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what --n labels can be expected to certify.")] = False,
    n: Annotated[int | None, typer.Option("--n", min=1, max=1_000_000, help="Certification rows planned for.")] = None,
    accuracy: Annotated[
        float, typer.Option(min=0.05, max=0.9999, help="With --plan: of the model, as a share.")
    ] = 0.88,
    groups_of: Annotated[int, typer.Option(min=1, max=1000, help="With --plan: rows that belong together.")] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="Say in plain words what it means.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw a reliability diagram.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Splits rows without roles, draws rows of each group; default: the bundle's, else 0."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Certify what may be kept on the device: at most RISK of it wrong, with confidence 1 - DELTA.

    ROWS.csv has a column for the score and one for whether the answer is right, and where there are any: group, stratum, role
    (tuning, certification or another), time, label, id. Tuning rows choose thresholds, certification rows test them, once.
    Exit code 3: refused, with the reason.
    """
    screen = Screen(json=json, quiet=quiet)
    mode = mode_of(plan=plan, audits=audits, folder=source is not None and source.is_dir())
    typed = _typed(context)
    if plan or (source is not None and source.exists()):
        check_read(mode, list(typed), typed)
    if plan:
        return _plan(screen, n=n, risk=risk, delta=delta, accuracy=accuracy, groups_of=groups_of, seed=seed or 0)
    if source is None:
        raise OperatorConfigError(
            "there is nothing to certify", reason="no_source", fix="name a bundle or a CSV file, or use --plan --n N"
        )
    from outrider import certifying
    from outrider.row_files import Columns

    target = out or (source if yes else None)
    if mode == "audits":
        made, written = certifying.from_audits(
            source,
            config=config,
            task_name=task,
            risk=risk,
            delta=delta,
            thresholds=threshold or [],
            teacher=teacher,
            out=target,
        )
    elif mode == "bundle":
        check_together(typed, config=config is not None, folder=data is not None and data.is_dir())
        with _bundle(source, data, target, config, task=task, task_file=task_file, seed=seed, min_gap=min_gap) as work:
            made, written = work.certify(risk=risk, delta=delta, label_source=label_source.value)
    else:
        made, written = (
            certifying.of_rows(
                source,
                Columns(score=score_col, correct=correct_col, group=group),
                certifying.promise_of(risk, delta, label_source.value),
                seed=seed or 0,
                min_gap_s=min_gap,
            ),
            "",
        )
    where = f"✓ wrote {target} ({written[:12]}…)" if written else ""
    if made.valid and source.is_dir() and not written:
        where = f"nothing was written: add -o OUT, or --yes to write into {source}"
    _tell(screen, made, digest=written, where=where, explain=explain, plot=plot)
    if not made.valid:
        raise typer.Exit(3)
    return None


def _typed(context: typer.Context) -> dict[str, str]:
    """What was typed, not taken from the environment or a default: parameter → how it is written."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name and source is not None and source.name == "COMMANDLINE":
            found[parameter.name] = (
                parameter.opts[0] if parameter.param_type_name == "option" else str(parameter.metavar)
            )
    return found


def _bundle(
    source: Path,
    data: Path | None,
    out: Path | None,
    config: Path | None,
    *,
    task: str,
    task_file: Path | None,
    seed: int | None,
    min_gap: float,
) -> "BundleCertification":
    if data is None:
        raise OperatorConfigError(
            f"{source} needs labelled rows to be certified on", reason="no_data", fix="add --data, or --from-audits"
        )
    if config is not None and out is None:
        raise OperatorConfigError(
            "the ledger would be charged for a certificate that is written nowhere",
            reason="no_output",
            fix=f"add -o OUT, or --yes to write into {source}",
        )
    from outrider.bundle_certifying import BundleCertification

    return BundleCertification(
        bundle=source,
        data=data,
        out=out,
        task_file=task_file,
        config=config,
        task_name=task,
        seed=seed,
        min_gap_s=min_gap,
    )


def _plan(
    screen: Screen,
    *,
    n: int | None,
    risk: float | None,
    delta: float | None,
    accuracy: float,
    groups_of: int,
    seed: int,
) -> None:
    if n is None:
        raise OperatorConfigError("--plan needs a number of rows", reason="no_rows", fix="add --n N")
    from outrider import certifying
    from outrider.progress import bar
    from outrider_export.explain import more_labels
    from outrider_export.plan import at_best

    asked = certifying.promise_of(risk, delta, "ground_truth")
    with bar(screen) as tell:
        found = certifying.planned(asked, n=n, accuracy=accuracy, groups_of=groups_of, seed=seed, tell=tell)
    best = at_best(risk=asked.risk, accuracy=accuracy)
    screen.table(
        ("certification rows", "groups", "kept on average", "draws that certify nothing"),
        [(each.n, each.groups, f"{each.coverage:.0%}", f"{each.nothing:.0%}") for each in found],
        title=f"a calibrated model that is right {accuracy:.0%} of the time, r* {asked.risk:.3g}, δ {asked.delta:.3g}",
    )
    screen.result(
        {
            "risk": asked.risk,
            "delta": asked.delta,
            "accuracy": accuracy,
            "rows_of_a_group": groups_of,
            "at_best": best,
            "expected": found,
        },
        more_labels(found, risk=asked.risk, accuracy=accuracy)[-1]
        + "\nbeside these, about three tuning rows for every seven; a simulation, not a promise",
    )


def _tell(screen: Screen, made: "Ruling", *, digest: str, where: str, explain: bool, plot: Path | None) -> None:
    from outrider import certifying
    from outrider.progress import bar

    said = None
    if explain:
        from outrider_export.explain import explained

        with bar(screen) as tell:
            said = explained(made, certifying.more_of(made, tell=tell))
    drawn = _drawn(made, plot) if plot is not None else []
    if made.tested:
        _tests(screen, made)
    lines = [*made.warnings, *made.sentences, *([where] if where else []), *drawn]
    if said is not None:
        lines += [
            line for heading, body in said.sections() for line in ("", f"{heading}:", *(f"  - {each}" for each in body))
        ]
    screen.result({**_fields(made), "bundle": digest, **({"explain": said} if said else {})}, "\n".join(lines))


def _drawn(made: "Ruling", plot: Path) -> list[str]:
    if not made.reliability:
        return ["nothing was drawn: a reliability diagram needs scores that are all between 0 and 1 (--score-col)"]
    from outrider.reliability_plot import draw_reliability

    draw_reliability(made.reliability, made.calibration_error or 0.0, plot)
    return [f"✓ drew {plot}"]


def _tests(screen: Screen, made: "Ruling") -> None:
    screen.table(
        ("", "threshold", "tuning coverage", "kept", "wrong", "p-value", ""),
        [
            (
                step.stratum,
                f"{step.threshold:.4f}",
                f"{step.coverage:.0%}",
                step.accepted,
                step.errors,
                f"{step.p_value:.4f}",
                "✓" if step.passed else "✗ ends",
            )
            for step in made.tested
        ],
    )


def _fields(made: "Ruling") -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(made)
    return found
