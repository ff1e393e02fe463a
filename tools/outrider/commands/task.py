"""``outrider task``: a starting task file, and whether one is right."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen
from outrider.task_template import Kind, task_text
from outrider_wire.errors import OperatorConfigError

app = group("Write and check task files.")


@app.command()
def init(
    *,
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("task.toml"),
    name: Annotated[str, typer.Option(help="Name of the task; default: the file's or folder's.")] = "",
    kind: Annotated[Kind, typer.Option(help="Parts of an input.")] = Kind.IMAGE,
    label: Annotated[list[str] | None, typer.Option(help="One answer; repeat it for each.")] = None,
    from_folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the answers from the sub-folders of labelled images.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented starting task."""
    screen = Screen(json=json, quiet=quiet)
    named = name or _name_of(from_folder or file)
    text = task_text(name=named, labels=_labels(from_folder, label, named), kind=kind, source=str(file))
    _write(file, text, force=force)
    screen.result(
        {"file": str(file), "task": named},
        f"wrote {file}; next: edit it, then: outrider task check {file}",
    )


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Task file.")], json: Json = False, quiet: Quiet = False) -> None:
    """Check a task file, and what its promise asks of your data."""
    from outrider.settings_files import read_task
    from outrider.task_template import summary
    from outrider_wire.leaving import words

    screen = Screen(json=json, quiet=quiet)
    task = read_task(file)
    screen.result({"ok": True, "task": task, "leaves": words(task)}, f"✓ {file}: task {task.name}")
    screen.table(("", ""), summary(task))


def _labels(folder: Path | None, labels: list[str] | None, name: str) -> list[str]:
    if folder is None:
        return labels or ["yes", "no"]
    from outrider_export.sources import task_from_folder

    return task_from_folder(folder, name).labels


def _name_of(path: Path) -> str:
    """A task name from a path: ``My Parts/`` → ``my-parts``."""
    stem = path.resolve().stem.lower()
    return (
        "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem).strip("-")[:64] or "task"
    )


def _write(file: Path, text: str, *, force: bool) -> None:
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise OperatorConfigError(
            f"{file} exists", reason="file_exists", fix="name another file, or add --force"
        ) from error
    except OSError as error:
        raise OperatorConfigError(
            f"{file} cannot be written: {error.strerror}", reason="unwritable_file", fix="choose another place"
        ) from error
