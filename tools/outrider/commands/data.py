"""``outrider data``: labelled rows into the cloud's store, and what is in it. The cloud may run meanwhile."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import CloudFile, Json, Quiet, TaskName, group
from outrider.output import Screen

app = group("Bring labelled data into the cloud's store, and count it.")

Rows = Annotated[
    Path, typer.Argument(metavar="FILE|DIR", help="JSON lines, or a folder with one sub-folder of images a class.")
]


@app.command("import")
def import_(rows: Rows, task: TaskName, config: CloudFile = None, json: Json = False, quiet: Quiet = False) -> None:
    """Add labelled rows. Each group gets its role once, by a keyed hash; an import may be repeated."""
    from outrider import learning
    from outrider.progress import bar
    from outrider_cloud.clock import now_ms
    from outrider_cloud.learning.opening import opened
    from outrider_export.sources import from_folder, from_jsonl

    screen = Screen(json=json, quiet=quiet)
    with opened(learning.cloud_config(config), task) as work, bar(screen) as tell:
        table = (from_folder if rows.is_dir() else from_jsonl)(rows, work.task)
        added = work.library.add(table, key=work.key, shares=work.shares, now_ms=now_ms(), progress=tell)
    new, known = sum(added.new.values()), sum(added.known.values())
    screen.result(
        {"task": task, "new": added.new, "known": added.known},
        f"✓ {new} rows added to task {task}" + (f"; {known} were there already" if known else ""),
    )
    screen.table(("role", "new", "there already"), [(role, added.new[role], added.known[role]) for role in added.new])


@app.command("import-labels")
def import_labels(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON lines: id (or sha256 of a part), label.")],
    task: TaskName,
    config: CloudFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add a person's labels to what devices have sent.

    May be repeated. Exit code 1: some lines name nothing that the store holds, or no answer of the task; the others are taken."""
    from functools import partial

    from outrider import learning
    from outrider_cloud.learning import human_labels
    from outrider_cloud.learning.opening import opened

    screen = Screen(json=json, quiet=quiet)
    said = human_labels.read_labels(file)
    with opened(learning.cloud_config(config), task) as work:
        change = partial(human_labels.apply, task=work.task.name, labels=work.task.labels, said=said)
        found = work.library.store.submit(change).result()
    new, changed = sum(found.new.values()), sum(found.changed.values())
    screen.result(
        {"task": task, "lines": len(said), **_fields(found)},
        f"✓ {new} examples labelled, {changed} labelled differently, {found.same} as they were",
    )
    screen.table(("role", "new", "changed"), [(role, found.new[role], found.changed[role]) for role in found.new])
    for line in [*found.unknown, *found.foreign]:
        screen.note(f"{file}, {line}")
    if found.unknown or found.foreign:
        raise typer.Exit(1)


def _fields(struct: object) -> dict[str, object]:
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(struct)
    return fields


@app.command()
def stats(task: TaskName, config: CloudFile = None, json: Json = False, quiet: Quiet = False) -> None:
    """Count a task's examples, and say what they can certify."""
    from outrider import learning
    from outrider_cloud.learning.opening import opened

    screen = Screen(json=json, quiet=quiet)
    with opened(learning.cloud_config(config), task) as work:
        found = learning.stock(work)
    screen.result(found, f"task {task}: {found['examples']} examples of {found['groups']} groups")
    screen.table(("role", "examples"), list(found["roles"].items()))
    screen.table(("source", "examples"), list(found["sources"].items()))
    screen.note(found["forecast"])
