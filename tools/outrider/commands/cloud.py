"""``outrider cloud``: the large model's side."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands import dead_letters, devices
from outrider.commands.forgetting import forget
from outrider.commands.options import CloudFile, Json, LogForm, LogFrom, Quiet, TaskName, group
from outrider.logs import LogFormat, LogLevel
from outrider.output import Screen

app = group("Serve the large model to devices.")
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(forget)
app.command(name="invite")(devices.invite)
app.add_typer(devices.app, name="devices")


@app.command()
def serve(
    *,
    config: Annotated[
        Path | None, typer.Option(envvar="OUTRIDER_CLOUD_CONFIG", help="cloud.toml; default: the one in this folder.")
    ] = None,
    task: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve this one task, with --large.")] = None,
    large: Annotated[
        str,
        typer.Option(
            metavar="KIND:WHERE", help="The large model of --task: onnx:DIR, transformers:DIR or openai:URL#MODEL."
        ),
    ] = "",
    strategy: Annotated[str, typer.Option(help="Strategy of --task: shunt, soft-prune or transfer.")] = "",
    broker: Annotated[str, typer.Option(metavar="mqtt://HOST:PORT", help="The broker.")] = "",
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where everything durable is kept.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API; 0: any free one.")] = None,
    log_format: LogForm = LogFormat.CONSOLE,
    log_level: LogFrom = LogLevel.INFO,
) -> None:
    """Answer escalations until SIGTERM. Flags win over OUTRIDER_CLOUD_… variables, these over the file."""
    import asyncio

    from outrider import logs, start
    from outrider.settings_files import FileKind
    from outrider_cloud.app import serve as run
    from outrider_cloud.config import load_cloud_config

    logs.set_up(form=log_format, level=log_level)
    flags = start.nested(broker__url=broker, data_dir=data_dir, api__port=port)
    flags |= start.one_task(task, large=_absolute(large), strategy=strategy)
    file = start.file_of(FileKind.CLOUD, config, flags)
    asyncio.run(run(load_cloud_config(file, start.overrides(FileKind.CLOUD, flags))))


def _absolute(large: str) -> str:
    """A folder that is meant from here, not from the configuration file's folder."""
    kind, colon, rest = large.partition(":")
    return f"{kind}{colon}{Path(rest).absolute()}" if kind in ("onnx", "transformers") and rest else large


@app.command(name="check-model")
def check_model(
    *,
    config: CloudFile = None,
    task: TaskName = "",
    samples: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE", help="Labelled samples: a folder a label, or JSON lines as for data import."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Ask about at most this many of them.")] = 200,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask the large model: what it says, costs and can serve.

    With labelled samples, also how far it can be believed.
    """
    from outrider import learning
    from outrider.model_check import check_model as checked
    from outrider.model_report import rows
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    with bar(screen) as tell:
        report = checked(learning.cloud_config(config), task=task, samples=samples, most=most, tell=tell)
    screen.table(("", ""), rows(report), title=f"large model of task {report.task}")
    screen.result(report, "\n".join(finding.line for finding in report.findings))
    if any(finding.level == "bad" for finding in report.findings):
        raise typer.Exit(1)
