"""``outrider config``: whether a configuration file is right, what is in force, and what may stand in one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen, to_json
from outrider.settings_files import FileKind

app = group("Check and show settings, task files and device profiles.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="edge.toml, cloud.toml, a task or a profile.")]
Kind = Annotated[FileKind | None, typer.Option(help="Kind of the file; default: as its name and keys tell.")]


@app.command()
def check(file: File, kind: Kind = None, json: Json = False, quiet: Quiet = False) -> None:
    """Check a file, the environment applied, before anything starts."""
    from outrider import settings_files

    screen = Screen(json=json, quiet=quiet)
    chosen = kind or settings_files.kind_of(file)
    settings_files.load(chosen, file)
    screen.result({"ok": True, "kind": chosen, "file": str(file)}, f"✓ {file} is a valid {chosen} file")


@app.command()
def show(file: File, kind: Kind = None, json: Json = False, quiet: Quiet = False) -> None:
    """Show every value in force, and where it comes from."""
    from outrider import settings_files

    screen = Screen(json=json, quiet=quiet)
    settings = list(settings_files.origins(kind or settings_files.kind_of(file), file))
    screen.result({each.name: {"value": each.value, "from": each.origin} for each in settings})
    screen.table(("setting", "value", "from"), [(each.name, to_json(each.value), each.origin) for each in settings])


class Described(StrEnum):
    """What has a schema: the kinds of file, and the wire."""

    EDGE = FileKind.EDGE
    CLOUD = FileKind.CLOUD
    TASK = FileKind.TASK
    PROFILE = FileKind.PROFILE
    ASYNCAPI = "asyncapi"


@app.command()
def schema(
    kind: Annotated[
        Described, typer.Argument(metavar="edge|cloud|task|profile|asyncapi", help="Kind of file, or the wire.")
    ],
) -> None:
    """Print a file's JSON Schema, or the AsyncAPI document of the wire.

    Editors read the one; whoever writes a device in another language reads the other, which is published as docs/asyncapi.json.
    """
    import msgspec

    if kind is Described.ASYNCAPI:
        from outrider_wire.asyncapi import document

        print(msgspec.json.format(msgspec.json.encode(document())).decode())
        return
    from outrider import settings_files

    Screen(json=True).value(msgspec.json.schema(settings_files.struct_of(FileKind(kind))))
