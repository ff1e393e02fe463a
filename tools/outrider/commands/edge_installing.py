"""``outrider edge install``: the agent as a service of this machine, or of an image that is being built."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import DryRun, Json, Quiet, Yes
from outrider.output import Screen

_STATES = {
    "new": "new",
    "same": "as it is to be",
    "outdated": "replaced: as an older Outrider laid it down",
    "changed": "kept: somebody changed it",
}


def install(
    *,
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Device profile; default: the one that fits this machine.")
    ] = "",
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="Lay it down under this folder: the tree of an image that is built.")
    ] = Path("/"),
    command: Annotated[
        str, typer.Option(metavar="PATH", help="The command that the service runs; default: this one.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Lay down the agent's service: unit, user, folders, configuration.

    Files that somebody has changed are kept; --dry-run shows how they differ. Nothing is started.
    """
    from outrider import edge_installing as installing
    from outrider.machine import this_machine

    screen, image = Screen(json=json, quiet=quiet), root.absolute() != Path("/")
    chosen = command or (installing.COMMAND if image else installing.this_command())
    wish = installing.wished(profile, this_machine(), root=root.absolute(), command=chosen)
    pieces = installing.plan(wish)
    listed = [{"path": str(each.path), "state": each.state, "diff": each.diff} for each in pieces]
    if not dry_run:
        count = sum(each.written for each in pieces)
        if count and not screen.confirmed(f"lay down {count} files for {wish.profile.name} under {root}?", yes=yes):
            raise typer.Exit(1)
        installing.install(wish, pieces)
    screen.table(("file", "what", "state"), [(each.path, each.what, _STATES[each.state]) for each in pieces])
    if dry_run and not json and not quiet:
        print("".join(each.diff for each in pieces), end="")
    screen.result(
        {"dry_run": dry_run, "profile": wish.profile.name, "files": listed},
        "nothing was written" if dry_run else f"✓ laid down for {wish.profile.name}. Next: {_next(image=image)}",
    )


def _next(*, image: bool) -> str:
    steps = "put task.toml and its bundle into /etc/outrider, then: outrider doctor --config /etc/outrider/edge.toml"
    return steps if image else f"{steps} && systemctl enable --now outrider-edge"
