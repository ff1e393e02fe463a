"""``outrider bundle``: what is in a bundle, whether it is sound, and how two differ."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import BundleDir, Json, Quiet, group
from outrider.output import Screen

app = group("Look into bundles, verify and compare them.")


@app.command()
def inspect(bundle: BundleDir, json: Json = False, quiet: Quiet = False) -> None:
    """Show what a bundle answers, and what may be claimed of it."""
    from outrider import bundle_report
    from outrider_engine.bundle import open_bundle

    screen = Screen(json=json, quiet=quiet)
    opened = open_bundle(bundle)
    screen.result(bundle_report.document(opened), bundle_report.headline(opened))
    screen.table(("", ""), bundle_report.facts(opened))
    screen.table(("file", "role", "bytes", "SHA-256"), bundle_report.files(opened))


@app.command()
def verify(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE…", help="Directories of bundles.")],
    run: Annotated[
        bool, typer.Option("--run", help="Also replay the golden inputs, in a limited child process.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte, operator and claim. Exit code 3: refused."""
    from outrider import bundle_report

    screen = Screen(json=json, quiet=quiet)
    found = [bundle_report.verified(path, run=run) for path in bundles]
    screen.result(found if len(found) > 1 else found[0], "\n".join(one.sentence for one in found))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Directory of a bundle.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Directory of another.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what differs, and what a device must fetch."""
    from outrider import bundle_report
    from outrider_engine.bundle import open_bundle

    screen = Screen(json=json, quiet=quiet)
    difference = bundle_report.compared(open_bundle(old), open_bundle(new))
    screen.result(difference, difference.sentence)
    screen.table(("setting", str(old), str(new)), [(each.name, each.old, each.new) for each in difference.settings])
    screen.table(("file", "change", "bytes"), [(each.path, each.change, each.bytes) for each in difference.files])
