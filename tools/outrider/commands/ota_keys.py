"""``outrider ota init`` and ``outrider ota keys``: who may sign, and how that changes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.commands.ota_options import (
    Keys,
    PassphraseFile,
    finish,
)
from outrider.commands.ota_shared import CHANGE, FOLDER, FOUND, PROPOSE, PUBLISH, RENEW, Given, sharing
from outrider.output import Screen

app = group("Say who may sign: add, rotate, revoke keys; sign what is proposed.")

Role = Annotated[str, typer.Argument(metavar="ROLE", help="root, targets, snapshot, timestamp, control, or a task.")]
Threshold = Annotated[int | None, typer.Option(min=1, help="How many of the role's keys must sign; default: as now.")]


@sharing(*FOUND)
def init(
    *,
    task: Annotated[list[str], typer.Option("--task", metavar="NAME", help="A task whose releases are signed.")],
    signers: Annotated[str, typer.Option(metavar="NofM", help="Root keys: how many of how many must sign.")] = "2of3",
    root_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|URI", help="A root key made elsewhere (.pub.json), or a URI; default: made here."),
    ] = None,
    targets_key: Annotated[str, typer.Option(metavar="FILE|URI", help="The same of the targets role.")] = "",
    automatic: Annotated[
        bool, typer.Option("--automatic", help="Also a role by which the learning loop releases to a canary group.")
    ] = False,
    canary: Annotated[
        list[str] | None,
        typer.Option(metavar="DEVICE", help="A device of the canary group; none named: 1 % of the fleet."),
    ] = None,
    given: Given,
) -> None:
    """Make a repository of signed metadata, and its first keys.

    With no key from elsewhere all are made on this machine, which is for a first try; the keys to move away are said.
    """
    from outrider.ota.founding import Wish, found_here, wished

    screen, folder = given.screen, given.folder
    wish: Wish = wished(task, signers, root_key or [], targets_key, automatic=automatic, canary=canary or [])
    if given.dry_run:
        screen.result({"dry_run": True, **wish.about()}, f"would make {folder}: {wish.said}")
        return
    done = found_here(given.place, wish, given.passphrase_file)
    said = [f"✓ {folder}: {wish.said}"]
    if done.move:
        said.append(f"move these keys to machines without a network, and remove them here: {', '.join(done.move)}")
    if done.waiting:
        said.append(f"waiting for signatures: {', '.join(done.waiting)} (outrider ota keys sign)")
    else:
        said.append(
            f"devices are shipped with {folder}/metadata/1.root.json; next: outrider ota publish BUNDLE --key …"
        )
    screen.result(
        {"dry_run": False, **wish.about(), "move_offline": done.move, "waiting": done.waiting}, "\n".join(said)
    )


@app.command("ls")
@sharing(*FOLDER)
def ls(*, given: Given) -> None:
    """List every role's keys, and what waits for signatures."""
    from outrider.ota import ceremony

    screen, place = given.screen, given.place
    rows, waiting = ceremony.listed(place), place.waiting()
    screen.result({"keys": rows, "waiting": waiting})
    screen.table(
        ("role", "signs", "key", "where", "expires (UTC)", "state"),
        [
            (
                row.role,
                f"{row.threshold} of {row.keys}",
                row.keyid[:12],
                row.where or "–",
                row.expires or "–",
                row.state,
            )
            for row in rows
        ],
    )
    for role, lacking in waiting.items():
        screen.note(f"proposed {role} lacks {lacking} signature(s)")


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The private key, made anew and encrypted.")],
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a key on this machine; only its .pub.json leaves."""
    from outrider.ota.passphrases import passphrases
    from outrider.ota.workplace import PUBLIC, write_public
    from outrider_trust.keys import new_key

    screen = Screen(json=json, quiet=quiet)
    key = new_key(file, passphrases(passphrase_file, again=True)(file.name))
    public = file.with_suffix(PUBLIC)
    write_public(public, key)
    screen.result(
        {"key": str(file), "public": str(public), "keyid": key.keyid},
        f"✓ {file} stays here; carry {public} to whoever makes the root (key id {key.keyid[:12]}…: compare it by voice)",
    )


@app.command("add")
@sharing(*PROPOSE)
def add(
    role: Role,
    *,
    key: Keys = None,
    threshold: Threshold = None,
    given: Given,
) -> None:
    """Propose a further key for a role, or a new task's first."""
    keys = [given.place.public(each) for each in key or []]
    _propose(given, role, {"add": keys, "threshold": threshold})


@app.command("rotate")
@sharing(*PROPOSE)
def rotate(
    role: Role,
    *,
    key: Keys = None,
    old: Annotated[
        list[str] | None, typer.Option("--old", metavar="KEYID", help="The key that goes; default: all it had.")
    ] = None,
    threshold: Threshold = None,
    given: Given,
) -> None:
    """Propose new keys in the place of a role's old ones."""
    from outrider.ota import ceremony

    place = given.place
    keys = [place.public(each) for each in key or []]
    new_ids = {each.keyid for each in keys}
    drop = old or [row.keyid for row in ceremony.listed(place) if row.role == role and row.keyid not in new_ids]
    change = {"add": keys, "drop": drop, "threshold": threshold}
    _propose(given, role, change)


@app.command("revoke")
@sharing(*CHANGE)
def revoke(
    role: Role,
    keyid: Annotated[list[str], typer.Argument(metavar="KEYID", help="Key ids, or unambiguous beginnings of them.")],
    *,
    threshold: Threshold = None,
    given: Given,
) -> None:
    """Propose that keys may sign no more."""
    _propose(given, role, {"drop": keyid, "threshold": threshold})


@app.command("renew")
@sharing(*RENEW)
def renew(
    role: Annotated[list[str], typer.Argument(metavar="ROLE", help="Roles that are about to expire.")],
    *,
    given: Given,
) -> None:
    """Propose the same again with a new expiry."""
    from outrider.ota import ceremony

    _said(given, ceremony.renewal(given.place, role, dry_run=given.dry_run))


@app.command("sign")
@sharing(*PUBLISH)
def sign(
    what: Annotated[
        str, typer.Argument(metavar="ROLE|FILE", help="A role of the working copy, or a proposed file carried here.")
    ],
    *,
    key: Keys = None,
    given: Given,
) -> None:
    """Sign what is proposed, and publish what is complete.

    A FILE is only signed in its place: carry it on, or back. With --dry-run it says what is in it.
    """
    from outrider.ota.carried import described, sign_file
    from outrider_wire.errors import OperatorConfigError

    screen, place, dry_run = given.screen, given.place, given.dry_run
    if not (key or dry_run):
        raise OperatorConfigError("no key is named to sign with", reason="no_key", fix="give --key URI")
    if what.endswith(".json"):
        signed = sign_file(place, Path(what), key or [], dry_run=dry_run)
        screen.result(
            {"dry_run": dry_run, "file": what, "signatures": signed.signatures, "about": signed.about},
            "\n".join(
                [*signed.about, f"{'would sign' if dry_run else '✓ signed'} {what}: {signed.signatures} signature(s)"]
            ),
        )
        return
    if dry_run:
        waiting = place.proposed(what)
        lacking, about = place.lacking(what, waiting), described(waiting)
        screen.result(
            {"dry_run": True, "role": what, "lacking": lacking, "about": about},
            "\n".join([*about, f"{what} lacks {lacking} signature(s)"]),
        )
        return
    lacking = place.sign(what, key or [])
    came = finish(place, screen, given.link)
    screen.result({"dry_run": False, "role": what, "lacking": lacking, **came}, f"✓ signed {what}; it lacks {lacking}")


@app.command("publish")
@sharing(*PUBLISH)
def publish(
    *,
    given: Given,
) -> None:
    """Publish what was signed elsewhere and carried back."""
    screen, place = given.screen, given.place
    if given.dry_run:
        waiting = place.waiting()
        screen.result(
            {"dry_run": True, "waiting": waiting},
            "\n".join(f"{role} lacks {n}" for role, n in waiting.items()) or "nothing waits",
        )
        return
    came = finish(place, screen, given.link)
    screen.result({"dry_run": False, **came}, f"✓ published {came['published'] or 'nothing'}")


@app.command("discard")
@sharing(*CHANGE)
def discard(
    role: Role,
    *,
    given: Given,
) -> None:
    """Forget what is proposed of a role, and its signatures."""
    from outrider.ota.carried import described

    screen, place, dry_run = given.screen, given.place, given.dry_run
    about = described(place.proposed(role))
    if not dry_run:
        if not screen.confirmed(f"forget the proposed {about[0]}?", yes=given.yes):
            raise typer.Exit(1)
        place.discard(role)
    word = "would forget" if dry_run else "✓ forgot"
    screen.result(
        {"dry_run": dry_run, "role": role, "about": about}, "\n".join([f"{word} the proposed {about[0]}", *about[1:]])
    )


@app.command("checklist")
def checklist() -> None:
    """Print the key ceremony, step by step, to be ticked off on paper."""
    from outrider.ota.checklist import CHECKLIST

    print(CHECKLIST)


def _propose(given: Given, role: str, change: dict[str, Any]) -> None:
    from outrider.ota import ceremony

    proposed = ceremony.change(given.place, role, **change, dry_run=True)
    if not given.dry_run:
        if not given.screen.confirmed(f"propose other keys for {role}?", yes=given.yes):
            raise typer.Exit(1)
        ceremony.change(given.place, role, **change)
    _said(given, proposed)


def _said(given: Given, proposed: list[str]) -> None:
    given.screen.result(
        {"dry_run": given.dry_run, "to_sign": proposed},
        f"{'would propose' if given.dry_run else '✓ proposed'} {', '.join(proposed)}; then: outrider ota keys sign {proposed[0]} --key …",
    )
