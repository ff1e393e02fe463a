"""``outrider cloud devices``: who has joined, who waits, who is put out; and the invitation by which devices come."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.options import CloudFile, DryRun, Json, Quiet, Yes, group
from outrider.output import Screen

app = group("See who has joined, accept who waits, put out who must go.")

Cloud = Annotated[str, typer.Option("--cloud", help="Address of the cloud's API; default: as cloud.toml says.")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="The operator's token; default: as cloud.toml says.")
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="FILE", help="Who signed the API's certificate; default: as cloud.toml says."),
]
Device = Annotated[str, typer.Argument(metavar="ID", help="The device's name.")]


def invite(
    *,
    count: Annotated[int, typer.Option(min=1, help="How many devices may join by it.")] = 1,
    expires: Annotated[str, typer.Option(metavar="1h", help="How long it is good for: 90s, 15m, 1h, 7d.")] = "1h",
    group_name: Annotated[str, typer.Option("--group", help="Group that the devices belong to.")] = "",
    ask: Annotated[bool, typer.Option("--ask", help="A person accepts each device.")] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="ID", help="For this device alone, which it replaces or lets in again.")
    ] = "",
    cloud: Cloud = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    config: CloudFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print one join line, for: outrider edge join LINE.

    Whoever has it can join: carry it as you would a password.
    """
    from outrider import durations

    invited = _api(cloud, token_file, ca_file, config).invite(
        count=count, expires_s=durations.seconds(expires), group=group_name, ask=ask, device=device
    )
    screen = Screen(json=json, quiet=quiet)
    screen.note(f"good for {count} device(s) and {expires}; on the device: outrider edge join 'LINE'")
    if json:
        screen.value(invited)
    else:
        print(invited.line)  # --quiet as well: it is what was asked for


@app.command()
def ls(
    *,
    cloud: Cloud = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    config: CloudFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List every device that asked to join."""
    screen = Screen(json=json, quiet=quiet)
    rows = _api(cloud, token_file, ca_file, config).all()
    screen.result(
        {"devices": rows}, "" if rows else "no device has asked to join; make a line with: outrider cloud invite"
    )
    if rows:
        screen.table(
            ("device", "state", "group", "online", "certificate until", "asked"),
            [
                (
                    row.device,
                    row.state,
                    row.group or "–",
                    "yes" if row.online else "no",
                    _day(row.not_after_ms),
                    _day(row.asked_ms),
                )
                for row in rows
            ],
        )


@app.command()
def show(
    *,
    device: Device,
    cloud: Cloud = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    config: CloudFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show one device."""
    screen = Screen(json=json, quiet=quiet)
    row = _api(cloud, token_file, ca_file, config).one(device)
    screen.result(
        row,
        f"{row.device}: {row.state}, {'online' if row.online else 'offline'}, group {row.group or '–'}, "
        f"certificate {row.serial or '–'} until {_day(row.not_after_ms)}",
    )


@app.command()
def accept(
    *,
    device: Device,
    cloud: Cloud = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    config: CloudFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a device in that waits for a person."""
    state = _api(cloud, token_file, ca_file, config).accept(device)
    Screen(json=json, quiet=quiet).result({"device": device, "state": state}, f"✓ {device} is {state}")


@app.command()
def revoke(
    *,
    device: Device,
    cloud: Cloud = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    config: CloudFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put a device out, and keep it out.

    Its connection ends, its certificate is refused, and nothing of it is taken any more.
    """
    screen, api = Screen(json=json, quiet=quiet), _api(cloud, token_file, ca_file, config)
    if dry_run:
        row = api.one(device)
        screen.result(
            {"dry_run": True, "device": device, "state": row.state}, f"would revoke {device}, now {row.state}"
        )
        return
    if not screen.confirmed(f"revoke {device}?", yes=yes):
        screen.note("nothing was revoked")
        raise typer.Exit(1)
    done = api.revoke(device)
    told = (
        "disconnected and kept out"
        if done.broker_told
        else "refused by the cloud; the broker is told as soon as it can be"
    )
    screen.result({"dry_run": False, "state": "revoked", **_plain(done)}, f"✓ {device} is revoked: {told}")
    if not done.broker_told:
        raise typer.Exit(4)


def _api(cloud: str, token_file: Path | None, ca_file: Path | None, config: Path | None) -> Any:
    """An `outrider.identities.IdentityApi`."""
    from outrider import identities

    return identities.IdentityApi(identities.find(cloud, token_file, ca_file, config))


def _plain(value: Any) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(value))


def _day(stamp_ms: int) -> str:
    return datetime.fromtimestamp(stamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if stamp_ms else "–"
