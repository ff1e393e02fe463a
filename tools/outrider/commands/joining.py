"""``outrider edge join``: how this device comes by its certificate, and renews it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.options import Json, Quiet
from outrider.output import Screen


def join(
    *,
    line: Annotated[
        str,
        typer.Argument(
            metavar="[LINE]",
            envvar="OUTRIDER_JOIN_LINE",
            help="What `outrider cloud invite` printed; -: read it from standard input.",
        ),
    ] = "",
    device: Annotated[
        str, typer.Option("--device", metavar="ID", help="This device's name; default: edge.toml's, else the host's.")
    ] = "",
    config: Annotated[
        Path, typer.Option(envvar="OUTRIDER_EDGE_CONFIG", help="edge.toml: its [broker] is written, the rest stays.")
    ] = Path("edge.toml"),
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="S", min=0, help="How long to wait for a person's yes.")
    ] = 600.0,
    renew: Annotated[bool, typer.Option("--renew", help="Only renew this device's certificate, now.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join a cloud by its line: a key, a certificate, edge.toml.

    The key is made here and never leaves. What the broker refuses this device is said at once.
    """
    screen = Screen(json=json, quiet=quiet)
    if renew:
        until = _renew(config)
        screen.result({"renewed": True, "until": until}, f"✓ the certificate is good until {until}")
        return
    joined = _join(screen, line, device, config, wait_s)
    screen.result(
        {"device": joined.device, "broker": joined.broker, "config": str(config), "certificate": str(joined.cert_file)},
        f"✓ {joined.device} has joined, and {joined.broker} grants it all it needs; {config} says so; start: outrider edge run",
    )


def _join(screen: Screen, text: str, device: str, config: Path, wait_s: float) -> Any:
    import asyncio
    import sys

    from outrider_edge.config import EdgeConfig, host_name
    from outrider_edge.joining import identity, join, trial
    from outrider_link.envelope import Tls
    from outrider_wire.joining import parse_join_line

    line = parse_join_line(sys.stdin.readline() if text == "-" else text)
    default = next(field.default for field in _fields(EdgeConfig) if field.name == "data_dir")
    folder = join.folder_of(config, default=default)
    joined = join.join(
        line, device=device or join.named_in(config) or host_name(), folder=folder, wait_s=wait_s, tell=screen.note
    )
    join.write_settings(joined, line, config)
    identity.forget_pending(folder)
    tls = Tls(ca_file=joined.ca_file, cert_file=joined.cert_file)
    asyncio.run(trial.try_broker(joined.broker, root=joined.root, device=joined.device, tls=tls))
    return joined


def _fields(kind: Any) -> Any:
    import msgspec

    return msgspec.structs.fields(kind)


def _renew(config: Path) -> str:
    from outrider.settings_files import FileKind, environment_of
    from outrider_edge.config import load_edge_config
    from outrider_edge.joining import identity, join
    from outrider_wire.errors import OperatorConfigError

    found = load_edge_config(config, environment_of(FileKind.EDGE))
    if not found.cloud.renew:
        raise OperatorConfigError(
            f"{config} does not say where the certificate is renewed",
            reason="not_joined",
            fix="join first, with a LINE",
        )
    cert_file = Path(found.broker.cert_file)
    join.renew(found.cloud.url, device=found.device, ca_file=Path(found.broker.ca_file), cert_file=cert_file)
    return str(identity.lifetime(cert_file).ends)
