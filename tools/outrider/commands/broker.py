"""``outrider broker``: the embedded MQTT broker, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen

app = group("Run the embedded MQTT broker, for a lab or a demo: it has no TLS and no accounts.")


@app.command()
def run(
    *,
    host: Annotated[str, typer.Option(envvar="OUTRIDER_BROKER_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="OUTRIDER_BROKER_PORT", min=0, max=65535, help="Port; 0: any free one.")
    ] = 1883,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen where other machines reach it: anyone there may publish.")
    ] = False,
    log_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the broker's own words go.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run until SIGTERM or Ctrl-C."""
    from outrider_link.broker import serve

    screen = Screen(json=json, quiet=quiet)
    serve(
        host=host,
        port=port,
        allow_remote=allow_remote,
        log_file=log_file,
        on_ready=lambda url: screen.result({"url": url}, f"broker at {url}; stop it with Ctrl-C"),
    )
