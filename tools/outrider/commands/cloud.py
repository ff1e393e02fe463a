"""``outrider cloud``: the large model's side."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import LogForm, LogFrom, group
from outrider.logs import LogFormat, LogLevel

app = group("Serve the large model to devices.")


@app.command()
def serve(
    *,
    config: Annotated[
        Path | None, typer.Option(envvar="OUTRIDER_CLOUD_CONFIG", help="cloud.toml; default: the one in this folder.")
    ] = None,
    task: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve this one task, with --large.")] = None,
    large: Annotated[str, typer.Option(metavar="onnx:DIR", help="The large model of --task.")] = "",
    strategy: Annotated[str, typer.Option(help="Strategy of --task: soft-prune or shunt.")] = "",
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
    """``onnx:DIR`` with a folder that is meant from here, not from the configuration file's folder."""
    kind, colon, rest = large.partition(":")
    return f"{kind}{colon}{Path(rest).absolute()}" if kind == "onnx" and rest else large
