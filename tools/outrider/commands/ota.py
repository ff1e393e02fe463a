"""``outrider ota``: models over the air. Signed releases; the unsigned way of a lab, where no root of trust is set up."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.commands import ota_exporting, ota_keys, ota_looking, ota_rollout
from outrider.commands.options import BundleDir, CloudAddress, DryRun, Json, Quiet, Yes, group
from outrider.commands.ota_options import (
    DEFAULT_REPOSITORY,
    CaFile,
    Folder,
    Keys,
    PassphraseFile,
    TokenFile,
    cloud_of,
    finish,
    workplace,
)
from outrider.output import Screen
from outrider.releases import DEFAULT_CLOUD, Plan
from outrider_wire.errors import OperatorConfigError, RuleRefusalError

if TYPE_CHECKING:
    from outrider.ota.cloudlink import CloudSource
    from outrider.releases import CloudApi

app = group("Publish bundles to devices over the air.")


@app.command()
def publish(
    *,
    bundle: BundleDir,
    key: Keys = None,
    counter: Annotated[
        int | None, typer.Option(min=1, help="Release counter; default: one more than the task's highest.")
    ] = None,
    arch: Annotated[list[str] | None, typer.Option(help="A machine (uname -m) that may run it; default: any.")] = None,
    profile: Annotated[list[str] | None, typer.Option(help="A device profile that may; default: any.")] = None,
    agent: Annotated[str, typer.Option(help="The least version of the agent.")] = "",
    memory_mb: Annotated[int, typer.Option(min=0, help="The least memory, in MB.")] = 0,
    automatic: Annotated[bool, typer.Option("--automatic", help="Signed with the automatic role.")] = False,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="DEVICE", help="Unsigned only: one device; default: all.")
    ] = None,
    folder: Folder = DEFAULT_REPOSITORY,
    passphrase_file: PassphraseFile = None,
    cloud: CloudAddress = DEFAULT_CLOUD,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only sign here; --cloud is not asked.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a bundle, and sign it as a release.

    A signed release reaches devices by a plan: outrider ota rollout. Without --key the bundle is offered unsigned, at once, which
    only devices without a root of trust take, and no cloud that keeps signed metadata does.
    """
    screen = Screen(json=json, quiet=quiet)
    if not key:
        link = cloud_of(cloud, token_file, ca_file)
        _publish_unsigned(screen, link, bundle, to or [], dry_run=dry_run, yes=yes)
        return
    from outrider.ota import signed_release
    from outrider_trust.facts import Requires

    requires = Requires(agent=agent, arch=arch or [], profiles=profile or [], memory_mb=memory_mb)
    place = workplace(folder, passphrase_file)
    link = None if offline else cloud_of(cloud, token_file, ca_file)
    wanted = signed_release.prepare(place, link, bundle, counter=counter, requires=requires, automatic=automatic)
    about = (
        f"{wanted.facts.task} {wanted.facts.version} ({wanted.digest[:12]}…), release counter {wanted.facts.counter}"
    )
    only_bring = wanted.signed and link is not None
    act = "bring the files of" if only_bring else "sign"
    if dry_run:
        screen.result({"dry_run": True, **wanted.about()}, f"would {act} {about}")
        return
    if not screen.confirmed(f"{act} {about}?", yes=yes):
        screen.note("nothing was signed")
        raise typer.Exit(1)
    from outrider.progress import bar

    with bar(screen) as tell:
        signed_release.upload(link, bundle, tell)
    if only_bring:
        signed_release.register(link, wanted)
        screen.result(
            {"dry_run": False, **wanted.about(), "published": []},
            f"✓ {about} is signed already, and its files are there",
        )
        return
    signed_release.sign(place, wanted, key)
    came = finish(place, screen, link)
    signed_release.register(link, wanted)
    screen.result(
        {"dry_run": False, **wanted.about(), **came},
        f"✓ signed {about}; next: outrider ota rollout {wanted.digest[:12]}",
    )


def _brief(todo: Plan) -> dict[str, object]:
    return {
        "release": todo.release,
        "task": todo.task,
        "version": todo.version,
        "devices": todo.devices,
        "uploads": [blob.path.name for blob in todo.upload],
    }


def _publish_unsigned(
    screen: Screen,
    link: "tuple[CloudApi, CloudSource] | None",
    bundle: Path,
    to: list[str],
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    from outrider import releases
    from outrider.bundle_report import size
    from outrider.progress import bar

    if link is None:
        raise OperatorConfigError("no cloud is named", reason="no_cloud", fix="give --cloud, or sign with --key")
    api, source = link
    todo = releases.plan(api, bundle, to)
    about = f"{todo.task} {todo.version} ({todo.release[:12]}…) to {todo.whom}: {size(todo.bytes)} to upload"
    if source.signs():
        raise RuleRefusalError(
            "this cloud keeps signed metadata, and offers nothing that is not signed",
            reason="must_be_signed",
            fix="sign the release: --key URI",
        )
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


app.command("init")(ota_keys.init)
app.add_typer(ota_keys.app, name="keys")
for command in (*ota_rollout.COMMANDS, ota_exporting.export, *ota_looking.COMMANDS):
    app.command(command.__name__)(command)
