"""``outrider cloud forget``: nothing of a device, or of one input, is left behind."""

from typing import Annotated

import typer

from outrider.commands.options import CloudAddress, CloudToken, DryRun, Json, Quiet, Yes
from outrider.output import Screen
from outrider.releases import DEFAULT_CLOUD
from outrider_wire.errors import CallerInputError


def forget(
    *,
    device: Annotated[str, typer.Option("--device", metavar="ID", help="A device, with all that it ever sent.")] = "",
    input_id: Annotated[str, typer.Option("--input", metavar="ID", help="One input; of --device, or of any.")] = "",
    cloud: CloudAddress = DEFAULT_CLOUD,
    token_file: CloudToken = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forget a device, or one input: nothing of it is left behind.

    Rows, files, what the broker keeps, and the bytes of the store go. The store is written anew, and takes nothing in meanwhile. A
    device that is still connected comes back: revoke it first, and it stays revoked.
    Models keep what they have learnt; what they saw of it is listed."""
    from outrider.operating import OperatorApi, lines

    if not device and not input_id:
        raise CallerInputError("it does not say what to forget", reason="forget_what", fix="give --device or --input")
    screen = Screen(json=json, quiet=quiet)
    api = OperatorApi(cloud, token_file=token_file)
    about = " of ".join(
        each for each in (f"input {input_id}" * bool(input_id), f"device {device}" * bool(device)) if each
    )
    seen = api.forget(device=device, input_id=input_id, dry_run=True)
    if not dry_run:
        screen.table(("", ""), lines(seen), title=f"to be forgotten: {about}")
        if not screen.confirmed(f"forget {about}?", yes=yes):
            screen.note("nothing was forgotten")
            raise typer.Exit(1)
        seen = api.forget(device=device, input_id=input_id, dry_run=False)
    screen.result(seen, f"{'would forget' if dry_run else '✓ forgot'} {about}")
    if dry_run or seen.not_cleared:
        screen.table(("", ""), lines(seen))
    if seen.found.used:
        screen.note("what models have learnt from it stays in them: run a round, and certify, again")
    if seen.remains:
        screen.note(f"bytes of it are left in {seen.remains}")
    if not dry_run and (seen.not_cleared or not seen.compacted):
        screen.note("not everything could be cleared: mend what is said above, and forget again")
        raise typer.Exit(1)
