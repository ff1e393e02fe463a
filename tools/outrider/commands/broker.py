"""``outrider broker``: the embedded MQTT broker. For a lab or a demo: it has no TLS and no accounts."""

import signal
import threading
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen

app = group("Run the embedded MQTT broker, for a lab or a demo.")


@app.callback()
def about() -> None:
    """Run the embedded MQTT broker, for a lab or a demo: it has no TLS and no accounts."""


@app.command()
def run(
    host: Annotated[str, typer.Option(envvar="OUTRIDER_BROKER_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="OUTRIDER_BROKER_PORT", min=1, max=65535, help="Port.")] = 1883,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen where other machines reach it: anyone there may publish.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run until SIGTERM or Ctrl-C."""
    from outrider_link.broker import EmbeddedBroker

    screen = Screen(json=json, quiet=quiet)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedBroker(host=host, port=port, allow_remote=allow_remote) as broker:
        screen.result({"url": broker.url}, f"broker at {broker.url}; stop it with Ctrl-C")
        stop.wait()
