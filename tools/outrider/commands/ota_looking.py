"""``outrider ota verify|show|diff|history|gc``: what is signed, and what of it nobody needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.commands.options import DryRun, Json, Quiet, Yes
from outrider.commands.ota_options import (
    DEFAULT_REPOSITORY,
    CaFile,
    CloudOf,
    Folder,
    Keys,
    PassphraseFile,
    TokenFile,
    cloud_of,
    finish,
    workplace,
)
from outrider.output import Screen

if TYPE_CHECKING:
    from outrider.ota.collecting import CloudStock, Survey
    from outrider.ota.workplace import Workplace
    from outrider_wire.manifest import Manifest

Release = Annotated[
    str, typer.Argument(metavar="RELEASE", help="Digest (or its beginning), version, or a bundle's folder.")
]
OfTask = Annotated[str, typer.Option("--task", metavar="NAME", help="Only of this task.")]


def verify(
    *,
    source: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A repository or USB stick; default: the working copy.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The root that devices have; default: the working copy's first.")
    ] = None,
    folder: Folder = DEFAULT_REPOSITORY,
    cloud: CloudOf = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge what is signed as a fresh device would.

    Exit code 3 when a device refuses any of it.
    """
    from outrider.ota import looking
    from outrider_link.settings import read_text
    from outrider_trust.sources import DirectorySource

    screen = Screen(json=json, quiet=quiet)
    link = None if source else cloud_of(cloud, token_file, ca_file)
    shipped = read_text(root or folder / "metadata" / "1.root.json").encode()
    found = looking.verify(shipped, link[1] if link else DirectorySource(source or folder), whole=source is None)
    screen.result({"verified": not found.faults, "versions": found.versions, "found": found.found})
    screen.table(
        ("kind", "task", "name", "version", "counter", "judgement"),
        [
            (
                each.kind,
                each.task,
                each.name[:20],
                each.version or "–",
                each.counter or "–",
                each.fault or ("is not here" if each.absent else "a device believes it"),
            )
            for each in found.found
        ],
        title=f"root {found.versions.root}, timestamp {found.versions.timestamp}, snapshot {found.versions.snapshot}",
    )
    if found.faults:
        raise typer.Exit(3)


def show(
    release: Release,
    *,
    task: OfTask = "",
    folder: Folder = DEFAULT_REPOSITORY,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what is signed of one release."""
    from outrider.ota import publishing

    screen = Screen(json=json, quiet=quiet)
    if Path(release).is_dir():
        from outrider_engine.bundle import open_bundle

        release = open_bundle(Path(release)).digest
    known = publishing.find(workplace(folder, None), release, task)
    facts = known.facts
    screen.result({"release": known.digest, "size": known.size, "automatic": known.automatic, **_built(facts)})
    screen.table(
        ("", ""),
        [
            ("release", known.digest),
            ("task", facts.task),
            ("version", facts.version),
            ("counter", facts.counter),
            ("parent", facts.parent or "–"),
            ("asks for", ", ".join(f"{name} {value}" for name, value in _built(facts.requires).items()) or "nothing"),
            ("signed by", "the automatic role" if known.automatic else "the task's role"),
        ],
    )


def diff(
    before: Release,
    after: Release,
    *,
    task: OfTask = "",
    folder: Folder = DEFAULT_REPOSITORY,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what differs between two releases."""
    from outrider.ota import looking

    screen = Screen(json=json, quiet=quiet)
    place = workplace(folder, None)
    found = looking.differences(_manifest(place, before, task), _manifest(place, after, task))
    screen.result({"differences": found}, "" if found else "they are the same")
    if found:
        screen.table(("what", "before", "after"), [(each.what, each.before, each.after) for each in found])


def history(
    *,
    task: OfTask = "",
    folder: Folder = DEFAULT_REPOSITORY,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what was signed when, the newest first."""
    from outrider.ota import looking

    screen = Screen(json=json, quiet=quiet)
    events = looking.history(workplace(folder, None), task)
    screen.result({"events": events})
    screen.table(
        ("signed (UTC)", "role", "version", "signatures", "added", "removed"),
        [
            (
                each.signed,
                each.role,
                each.version,
                each.signers,
                "\n".join(map(_short, each.added)) or "–",
                "\n".join(map(_short, each.removed)) or "–",
            )
            for each in events
        ],
    )


def gc(
    *,
    keep: Annotated[int, typer.Option(min=1, help="So many of the newest releases stay in any case.")] = 2,
    key: Keys = None,
    folder: Folder = DEFAULT_REPOSITORY,
    cloud: CloudOf = "",
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    passphrase_file: PassphraseFile = None,
    alone: Annotated[
        bool, typer.Option("--no-devices", help="There is no cloud to ask what devices hold, and no device.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove releases that no plan and no device needs, with --yes.

    Without it, it says which: of the signed metadata here, and of the cloud with their files.
    Plans that have expired go too. The keys of their roles sign the removal; what the cloud alone still has needs no key.
    """
    from outrider.bundle_report import size
    from outrider.ota import cloudlink, collecting
    from outrider_wire.errors import OperatorConfigError

    screen = Screen(json=json, quiet=quiet)
    place, link = workplace(folder, passphrase_file), cloud_of(cloud, token_file, ca_file)
    if link is None and not alone:
        raise OperatorConfigError(
            "what devices hold is not known",
            reason="no_cloud",
            fix="give --cloud URL, or --no-devices where there is none",
        )
    survey, stock = collecting.Survey(releases=[], plans=[]), collecting.CloudStock()
    running: set[str] = set()
    returned: set[str] = set()
    signed = alone
    if link is not None and (signed := link[1].signs()):
        cloudlink.pull(place.repository, link[1])
        running = cloudlink.held_by_devices(link[0])
        there = collecting.in_cloud(link[0], keep=keep, dry_run=True)
        returned = {each.digest for each in there.releases if each.returned}
    if signed:
        survey = collecting.survey(place, running, keep=keep, returned=returned)
    if link is not None:
        going = [each.digest for each in survey.going]
        stock = collecting.in_cloud(link[0], keep=keep, without=going, dry_run=True)
    _show_survey(screen, survey, stock)
    found: dict[str, object] = {"releases": survey.releases, "expired_plans": survey.plans, "cloud": stock}
    what = (
        f"{len(survey.going)} release(s) and {len(survey.plans)} expired plan(s) of the signed metadata, and of the cloud "
        f"{len(stock.going)} release(s) with {stock.files} file(s), {size(stock.bytes)}"
    )
    dry_run = dry_run or not yes
    if not (survey.going or survey.plans or stock.going):
        screen.result({"dry_run": dry_run, **found}, "✓ there is nothing to remove")
        return
    if dry_run:
        screen.result({"dry_run": True, **found}, f"would remove {what}; with --yes it goes")
        return
    came: dict[str, object] = {"files": 0}
    if survey.going or survey.plans:
        if not key:
            raise OperatorConfigError("a removal is signed, as a release is", reason="no_key", fix="give --key URI")
        for role, metadata in collecting.without(place, survey).items():
            place.propose_signed(role, metadata, _signing(place, role, metadata, key))
        came = finish(place, screen, link)
        came["files"] = collecting.sweep(place)
    if link is not None:  # judged anew there: a rollout may have begun, or a signature be lacking
        found["cloud"] = collecting.in_cloud(link[0], keep=keep, dry_run=False)
    screen.result({"dry_run": False, **found, **came}, f"✓ removed {what}")


def mend(
    kept: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where this device keeps metadata.")],
    *,
    root: Annotated[Path, typer.Option(metavar="FILE", help="The root that the device was shipped with.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """On a device: put damaged metadata aside, and forget nothing.

    The agent must not run. FOLDER is metadata/ in its data folder.
    """
    from outrider_link.settings import read_text
    from outrider_trust.client import TrustedMetadata
    from outrider_wire.errors import OperatorConfigError

    screen = Screen(json=json, quiet=quiet)
    if (
        not any(kept.glob("*.root.json"))
        and not (kept / "root_history").is_dir()
        and not (kept / "timestamp.json").exists()
    ):
        raise OperatorConfigError(
            f"no device keeps metadata in {kept}", reason="no_metadata", fix="name metadata/ in the agent's data_dir"
        )
    done = TrustedMetadata(kept, shipped_root=read_text(root).encode()).mend()
    screen.result({"done": done}, "\n".join(done) or "nothing is damaged")


COMMANDS = (verify, show, diff, history, gc, mend)


def _show_survey(screen: Screen, survey: "Survey", stock: "CloudStock") -> None:
    """What stays and why, and what goes."""
    from outrider.bundle_report import size

    goes = "nothing: it goes"
    if survey.releases:
        screen.table(
            ("task", "release", "version", "counter", "stays because"),
            [(each.task, each.digest[:12], each.version, each.counter, each.why or goes) for each in survey.releases],
        )
    if stock.releases:
        screen.table(
            ("task", "release in the cloud", "version", "bytes that go", "stays because"),
            [
                (each.task, each.digest[:12], each.version, size(each.bytes), each.why or goes)
                for each in stock.releases
            ],
        )


def _signing(place: "Workplace", role: str, metadata: Any, keys: list[str]) -> list[str]:
    """Those of the keys that the role has: a collection may concern several tasks."""
    named = place.may_sign(role, metadata)
    return [uri for uri in keys if place.signer(uri).public_key.keyid in named]


def _manifest(place: "Workplace", what: str, task: str) -> "Manifest":
    from outrider.ota import looking, publishing

    if Path(what).is_dir():
        from outrider_engine.bundle import open_bundle

        return open_bundle(Path(what)).manifest
    return looking.manifest_of(place, publishing.find(place, what, task))


def _short(path: str) -> str:
    folder, _, name = path.rpartition("/")
    name = name.removesuffix(".json")
    return f"{folder}/{name[:12]}…" if len(name) == 64 else f"{folder}/{name}"


def _built(struct: object) -> dict[str, object]:
    import msgspec

    return dict(msgspec.to_builtins(struct))
