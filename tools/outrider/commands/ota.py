"""``outrider ota``: models over the air. Nothing is signed yet, and there is no staged rollout."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import BundleDir, DryRun, Json, Quiet, Yes, group
from outrider.output import Screen
from outrider.releases import DEFAULT_CLOUD, Plan

app = group("Publish bundles to devices over the air.")

Cloud = Annotated[str, typer.Option("--cloud", envvar="OUTRIDER_OTA_CLOUD", help="Address of the cloud's HTTP API.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(envvar="OUTRIDER_OTA_TOKEN_FILE", metavar="FILE", help="File with the cloud's bearer token."),
]
CaFile = Annotated[
    Path | None,
    typer.Option(envvar="OUTRIDER_OTA_CA_FILE", metavar="FILE", help="Who signed the certificate of an https:// API."),
]


@app.command()
def publish(
    *,
    bundle: BundleDir,
    to: Annotated[list[str] | None, typer.Option("--to", metavar="DEVICE", help="One device; default: all.")] = None,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a bundle, make it a release, offer it to devices."""
    from outrider import releases
    from outrider.bundle_report import size
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    api = releases.CloudApi(cloud, token_file=token_file, ca_file=ca_file)
    todo = releases.plan(api, bundle, to or [])
    about = f"{todo.task} {todo.version} ({todo.release[:12]}…) to {todo.whom}: {size(todo.bytes)} to upload"
    if dry_run:
        screen.result({"dry_run": True, "bytes": todo.bytes, **_brief(todo)}, f"would publish {about}")
        return
    if not screen.confirmed(f"publish {about}?", yes=yes):
        screen.note("nothing was published")
        raise typer.Exit(1)
    with bar(screen) as tell:
        counters = releases.publish(api, todo, tell)
    screen.result(
        {"dry_run": False, "bytes": todo.bytes, **_brief(todo), "counters": counters},
        f"✓ offered {todo.task} {todo.version} ({todo.release[:12]}…) to {len(counters)} device(s); see: outrider ota status",
    )


@app.command()
def status(
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what really runs on every device, and what should."""
    from outrider import releases

    screen = Screen(json=json, quiet=quiet)
    rows = releases.rows(releases.CloudApi(cloud, token_file=token_file, ca_file=ca_file).devices())
    screen.result({"devices": rows}, "" if rows else "no device was ever heard of; start one with: outrider edge run")
    if rows:
        screen.table(
            ("device", "online", "task", "running", "version", "should run", "state", "reason"),
            [
                (
                    row.device,
                    "yes" if row.online else "no",
                    row.task or "–",
                    row.running[:12] or "–",
                    row.version or "–",
                    "the same" if row.current else row.desired[:12],
                    row.state or "–",
                    row.reason or "",
                )
                for row in rows
            ],
        )


def _brief(todo: Plan) -> dict[str, object]:
    return {
        "release": todo.release,
        "task": todo.task,
        "version": todo.version,
        "devices": todo.devices,
        "uploads": [blob.path.name for blob in todo.upload],
    }
