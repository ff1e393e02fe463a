"""``outrider doctor``: a list of checks, each with the way out. Exit code 1 when something is bad."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet
from outrider.output import Screen

app = typer.Typer(rich_markup_mode=None, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def doctor(
    config: Annotated[
        list[Path] | None,
        typer.Option(help="edge.toml or cloud.toml; repeat it for both. Default: those in this folder."),
    ] = None,
    production: Annotated[
        bool, typer.Option("--production", help="Complain of what a lab may do and a fleet may not.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check this machine, and say how to fix what is wrong."""
    from outrider.doctor import examine

    screen = Screen(json=json, quiet=quiet)
    files = config or [each for each in (Path("edge.toml"), Path("cloud.toml")) if each.exists()]
    findings = examine(files, production=production)
    bad = sum(finding.level == "bad" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    screen.result(
        {"ok": not bad, "findings": findings},
        "\n".join([*(finding.line for finding in findings), f"\n{bad} to fix, {warnings} to know"]),
    )
    if bad:
        raise typer.Exit(1)
