"""``outrider config``: whether a configuration file is right, what is in force, and what may stand in one."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen, to_json
from outrider.settings_files import KINDS, FileKind
from outrider_wire.errors import OperatorConfigError

app = group("Check and show edge.toml, cloud.toml and task files.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="edge.toml, cloud.toml or a task file.")]
Kind = Annotated[str, typer.Option(help=f"Kind of the file: {', '.join(KINDS)}; default: as its name and keys tell.")]


@app.command()
def check(file: File, kind: Kind = "", json: Json = False, quiet: Quiet = False) -> None:
    """Check a file, with the environment applied, before anything starts."""
    from outrider import settings_files

    screen = Screen(json=json, quiet=quiet)
    chosen = _chosen(kind, file)
    settings_files.load(chosen, file)
    screen.result({"ok": True, "kind": chosen, "file": str(file)}, f"✓ {file} is a valid {chosen} file")


@app.command()
def show(file: File, kind: Kind = "", json: Json = False, quiet: Quiet = False) -> None:
    """Show every value in force, and whether it comes from the file, the environment or is a default."""
    from outrider import settings_files

    screen = Screen(json=json, quiet=quiet)
    settings = list(settings_files.origins(_chosen(kind, file), file))
    screen.result({each.name: {"value": each.value, "from": each.origin} for each in settings})
    screen.table(("setting", "value", "from"), [(each.name, to_json(each.value), each.origin) for each in settings])


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND|FILE", help=f"{', '.join(KINDS)}, or a file of that kind.")],
) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    import msgspec

    from outrider import settings_files

    chosen = _chosen(kind if kind in KINDS else "", Path(kind))
    Screen(json=True).value(msgspec.json.schema(settings_files.struct_of(chosen)))


def _chosen(kind: str, file: Path) -> FileKind:
    from outrider import settings_files

    if not kind:
        return settings_files.kind_of(file)
    found = next((each for each in KINDS if each == kind), None)
    if found is None:
        raise OperatorConfigError(f"there is no kind {kind!r}", reason="unknown_kind", fix=f"use {', '.join(KINDS)}")
    return found
