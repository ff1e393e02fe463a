"""``outrider ota export``: a signed plan and its releases into a folder, such as a USB stick, for `outrider edge update install`."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import DryRun, Json, Quiet
from outrider.commands.ota_options import (
    DEFAULT_REPOSITORY,
    CaFile,
    CloudOf,
    Folder,
    PassphraseFile,
    TokenFile,
    cloud_of,
    workplace,
)
from outrider.output import Screen


def export(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder, or one that this command wrote.")],
    *,
    bundle: Annotated[
        list[Path] | None, typer.Option("--bundle", metavar="DIR", help="A release of the plan, with its files.")
    ] = None,
    base: Annotated[
        list[Path] | None,
        typer.Option("--base", metavar="DIR", help="A bundle that devices hold: deltas from it are brought too."),
    ] = None,
    rollout: Annotated[str, typer.Option(metavar="NAME", help="The signed plan; default: the newest.")] = "",
    folder: Folder = DEFAULT_REPOSITORY,
    passphrase_file: PassphraseFile = None,
    cloud: CloudOf = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    offline: Annotated[bool, typer.Option("--offline", help="Take what is here; --cloud is not asked.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a signed plan and its releases to a folder, as for a stick.

    At the device: outrider edge update install DIR. With --cloud the newest signed metadata is fetched first.
    """
    from outrider.bundle_report import size
    from outrider.ota import cloudlink, exporting
    from outrider.progress import bar
    from outrider_engine.bundle import open_bundle

    screen = Screen(json=json, quiet=quiet)
    place, link = workplace(folder, passphrase_file), None if offline else cloud_of(cloud, token_file, ca_file)
    if link is not None:
        cloudlink.pull(place.repository, link[1])
    exporting.check_folder(to)
    carried = exporting.choose(place, rollout)
    bundles = exporting.needed(carried.plan, [open_bundle(each) for each in bundle or []])
    bases = [open_bundle(each) for each in base or []]
    releases = {each.task: each.release for each in carried.plan.releases}
    about = f"plan {carried.rollout} and {len(bundles)} release(s)"
    if dry_run:
        screen.result(
            {"dry_run": True, "rollout": carried.rollout, "releases": releases}, f"would write {about} to {to}"
        )
        return
    with bar(screen) as tell:
        brought = exporting.write(place, carried, to, bundles=bundles, bases=bases, tell=tell)
    screen.result(
        {"dry_run": False, "rollout": carried.rollout, "releases": releases, **brought.about()},
        f"✓ {to}: {about}, {brought.files} file(s) ({size(brought.bytes)}), {brought.deltas} delta(s); metadata is good until "
        f"{brought.good_until}; at the device: outrider edge update install {to}",
    )
