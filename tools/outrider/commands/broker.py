"""``outrider broker``: the embedded MQTT broker, in the foreground; and what a broker with access rules needs."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import DryRun, Json, Quiet, group
from outrider.output import Screen

app = group("Run the embedded MQTT broker for a lab, or secure mosquitto.")


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
    """Run the embedded broker, for a lab, until SIGTERM or Ctrl-C.

    It has no TLS and no accounts, so that it listens on this machine alone.
    """
    from outrider_link.broker import serve

    screen = Screen(json=json, quiet=quiet)
    serve(
        host=host,
        port=port,
        allow_remote=allow_remote,
        log_file=log_file,
        on_ready=lambda url: screen.result({"url": url}, f"broker at {url}; stop it with Ctrl-C"),
    )


@app.command()
def init(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the site; made when absent.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="Name or address that devices reach broker and cloud by; repeat it. Default: this host."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the broker.")] = 8883,
    api_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the cloud's API.")] = 8780,
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on; default: every one.")] = "",
    worker: Annotated[str, typer.Option(help="Name of the cloud's worker.")] = "one",
    user: Annotated[str, typer.Option(help="System user that mosquitto runs as; default: whoever starts it.")] = "",
    plugin: Annotated[
        str, typer.Option(metavar="FILE", help="mosquitto_dynamic_security.so; default: where distributions put it.")
    ] = "",
    ca_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An authority of your own PKI, with --ca-key; default: one is made."),
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    cloud_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="cloud.toml to write [broker], [api] and [access] into.")
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="New certificates for broker and cloud, under their names; the rest stays.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Lay down a secured site: certificates, mosquitto.conf, rules."""
    from outrider import broker_site

    screen = Screen(json=json, quiet=quiet)
    site = broker_site.Site(
        folder=folder.absolute(),
        hosts=host or broker_site.default_hosts(),
        port=port,
        api_port=api_port,
        listen=listen,
        worker=worker,
        plugin=plugin,
        user=user or broker_site.current_user(),
    )
    if renew:
        site = broker_site.as_it_is(site)
    files = broker_site.lay_out(site, ca_files=broker_site.own_authority(ca_cert, ca_key), renew=renew)
    settings = None if renew or cloud_config is None else broker_site.changed_config(site, cloud_config)
    if not dry_run:
        broker_site.write(files, owner=user)
        if settings is not None:
            broker_site.write([settings])
    listed = [*files, *([settings] if settings else [])]
    screen.result(
        {"dry_run": dry_run, "files": [{"path": str(each.path), "mode": f"{each.mode:o}"} for each in listed]},
        f"{'would write' if dry_run else '✓ wrote'} {len(listed)} files; start: mosquitto -c {site.folder}/broker/mosquitto.conf",
    )
    screen.table(("file", "rights", "what"), [(each.path, f"{each.mode:o}", each.what) for each in listed])
