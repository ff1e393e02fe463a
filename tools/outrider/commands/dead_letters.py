"""``outrider cloud dead-letters``: what the cloud could not take, and a second try for it."""

from typing import Annotated

import typer

from outrider.commands.options import CloudAddress, CloudToken, DryRun, Json, Quiet, Yes, group
from outrider.output import Screen
from outrider.releases import DEFAULT_CLOUD
from outrider_wire.errors import CallerInputError

app = group("Look at what the cloud could not take, and take it in again.")

Number = Annotated[int, typer.Argument(metavar="ID", min=1, help="Its number, as ls shows it.")]


@app.command()
def ls(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, the newest.")] = 100,
    cloud: CloudAddress = DEFAULT_CLOUD,
    token_file: CloudToken = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the newest."""
    from outrider.operating import OperatorApi

    screen = Screen(json=json, quiet=quiet)
    letters = OperatorApi(cloud, token_file=token_file).letters(limit)
    screen.result({"dead_letters": letters}, "" if letters else "there are no dead letters")
    if letters:
        rows = [
            (each.id, each.device or "–", each.reason, each.size, "yes" if each.whole else "no", each.detail[:80])
            for each in letters
        ]
        screen.table(("id", "device", "reason", "bytes", "whole", "what"), rows)


@app.command()
def show(
    *,
    letter: Number,
    cloud: CloudAddress = DEFAULT_CLOUD,
    token_file: CloudToken = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show one, with its bytes and what to do about it."""
    from outrider.operating import OperatorApi, payload_text
    from outrider_wire.reasons import what_to_do

    screen = Screen(json=json, quiet=quiet)
    found = OperatorApi(cloud, token_file=token_file).letter(letter)
    screen.result(found, payload_text(found))
    rows = [("topic", found.topic), ("input", found.input or "–"), ("reason", found.reason), ("what", found.detail)]
    rows += [("what to do", todo)] if (todo := what_to_do(found.reason)) else []
    screen.table(("", ""), [*rows, ("bytes", f"{found.size}{'' if found.whole else ', not all of them kept'}")])


@app.command()
def requeue(
    *,
    letter: Annotated[
        int, typer.Argument(metavar="[ID]", min=0, show_default=False, help="Its number; without one, --all.")
    ] = 0,
    every: Annotated[bool, typer.Option("--all", help="The newest thousand, the oldest of them first.")] = False,
    cloud: CloudAddress = DEFAULT_CLOUD,
    token_file: CloudToken = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take one in again, or all, as if they came now.

    A device that was told of a refusal keeps it; the answer is learnt from all the same. Exit code 3: some would be refused again."""
    from outrider.operating import OperatorApi, Outcome
    from outrider_wire.errors import OutriderError

    if bool(letter) == every:
        raise CallerInputError("it does not say which", reason="which_letter", fix="give a number, or --all")
    screen = Screen(json=json, quiet=quiet)
    api = OperatorApi(cloud, token_file=token_file)
    numbers = [each.id for each in reversed(api.letters(1000))] if every else [letter]
    if not dry_run and not screen.confirmed(f"take in {len(numbers)} again?", yes=yes):
        raise typer.Exit(1)
    outcomes: list[Outcome] = []
    for number in numbers:
        try:
            outcomes.append(api.requeue(number, dry_run=dry_run))
        except OutriderError as error:
            if not every:
                raise
            outcomes.append(
                Outcome(id=number, dry_run=dry_run, outcome="refused", reason=error.reason, detail=error.what)
            )
    refused = sum(each.outcome == "refused" for each in outcomes)
    would = "would be " if dry_run else ""
    screen.result({"outcomes": outcomes}, f"{len(outcomes) - refused} {would}taken in, {refused} refused")
    screen.table(("id", "outcome", "why"), [(each.id, each.outcome, each.detail or each.reason) for each in outcomes])
    if refused:
        raise typer.Exit(3)
