"""``outrider edge outbox``: what waits for the cloud on this device, looked at, tried again, given up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.commands.options import AgentAddress, DryRun, Json, Quiet, Yes, group

if TYPE_CHECKING:
    from outrider.outbox_desk import OutboxDesk

app = group("See what waits for the cloud, try it again, give it up.")

Config = Annotated[
    Path | None,
    typer.Option(envvar="OUTRIDER_EDGE_CONFIG", help="edge.toml, to find the file while the agent is down."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of an input.")]
COLUMNS = ("id", "task", "state", "delivery", "worth", "gain", "offers", "bytes", "age", "left")
DOWN = "the agent is down: this is what its file says"


@app.command()
def ls(
    *,
    task: Annotated[str, typer.Option(help="Of one task only.")] = "",
    delivery: Annotated[str, typer.Option(help="Only what is queued, offered or received.")] = "",
    durability: Annotated[str, typer.Option(help="disk, or memory for tasks that gave durability up.")] = "disk",
    after: Annotated[int, typer.Option(min=0, help="Begin after this number: the last page's `next`.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Entries on a page.")] = 50,
    config: Config = None,
    agent: AgentAddress = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List what waits, the oldest first, and the sums by task and state."""
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    query: dict[str, str | int] = {
        "task": task,
        "delivery": delivery,
        "durability": durability,
        "after": after,
        "limit": limit,
    }
    with _desk(agent, config) as desk:
        found = desk.page(query)
    if found["read_from"] == "file":
        screen.note(DOWN)
    page, outbox = found["page"], found["outbox"]
    screen.result(found, in_words(outbox) if outbox else "")
    screen.table(
        ("task", "delivery", "entries", "bytes", "oldest"),
        [
            (each["task"], each["delivery"], each["count"], each["bytes"], _span(each["oldest_s"]))
            for each in page["totals"]
        ],
    )
    screen.table(COLUMNS, [_row(each) for each in page["entries"]])
    if page["next"] is not None:
        screen.note(f"more: --after {page['next']}")


@app.command()
def show(id_: Id, config: Config = None, agent: AgentAddress = "", json: Json = False, quiet: Quiet = False) -> None:
    """Show one entry, whole, but for the bytes of its payload."""
    from outrider.output import Screen, to_json

    screen = Screen(json=json, quiet=quiet)
    with _desk(agent, config) as desk:
        found = desk.entry(id_)
    if found["read_from"] == "file":
        screen.note(DOWN)
    entry, envelope = found["entry"], found["envelope"]
    screen.result(found)
    screen.table(COLUMNS, [_row(entry)])
    screen.table(
        ("part", "kind", "bytes", "sha256"),
        [(part["name"], part["media_type"], part["size"], part["sha256"]) for part in envelope["parts"]],
    )
    if not json and not quiet:
        print(f"why {envelope['why']}; model {envelope['model'][:12]}…; report:\n{to_json(found['report'])}")


@app.command()
def retry(
    id_: Annotated[str, typer.Argument(metavar="[ID]", help="Id of an input; none: all of them.")] = "",
    agent: AgentAddress = "",
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Offer one entry, or all, now, without waiting for its timer."""
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    with _desk(agent, None) as desk:
        if dry_run:
            due = len([desk.entry(id_)]) if id_ else desk.page({"limit": 1})["outbox"]["count"]
            screen.result({"due": due, "dry_run": True}, f"{due} would be due now")
            return
        due = desk.retry(id_)
    screen.result({"due": due, "dry_run": False}, f"{due} due now")


@app.command()
def drop(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="Ids of inputs.")] = None,
    *,
    all_: Annotated[
        bool, typer.Option("--all", help="Everything that waits, or what --task and --delivery name.")
    ] = False,
    task: Annotated[str, typer.Option(help="With --all: of one task only.")] = "",
    delivery: Annotated[str, typer.Option(help="With --all: only what is queued, offered or received.")] = "",
    agent: AgentAddress = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give entries up for good.

    Each ends as expired, and the answer of the device stands; an audit that is dropped counts as an error.
    """
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    with _desk(agent, None) as desk:
        wanted = _wanted(desk, ids or [], all_, {"task": task, "delivery": delivery})
        if dry_run:
            screen.result({"dropped": [], "would_drop": wanted, "dry_run": True}, f"{len(wanted)} would be dropped")
            return
        if wanted and not screen.confirmed(f"give up {len(wanted)} for good?", yes=yes):
            raise typer.Exit(1)
        dropped = [id_ for id_ in wanted if desk.drop(id_)]
    screen.result({"dropped": dropped, "would_drop": [], "dry_run": False}, f"{len(dropped)} dropped")


def _wanted(desk: "OutboxDesk", ids: list[str], every: bool, narrowed: dict[str, str]) -> list[str]:
    """Which entries are meant, each of them open.

    Raises:
        CallerInputError: none is named, or both ids and ``--all``.
        CallerUnknownError: one of the ids is not there.
    """
    from outrider.outbox_desk import PAGE
    from outrider_wire.errors import CallerInputError

    if bool(ids) == every or (any(narrowed.values()) and not every):
        raise CallerInputError(
            "it is not clear what to drop", reason="no_input", fix="name ids, or --all (with --task, --delivery)"
        )
    if ids:
        return [id_ for id_ in ids if desk.entry(id_)["entry"]["delivery"] != "done"]
    found: list[str] = []
    for durability in ("disk", "memory"):
        after: int | None = 0
        while after is not None:
            page = desk.page({**narrowed, "durability": durability, "after": after, "limit": PAGE})["page"]
            found += [entry["id"] for entry in page["entries"]]
            after = page["next"]
    return found


@contextmanager
def _desk(agent: str, config: Path | None) -> Iterator["OutboxDesk"]:
    from outrider.client import default_address
    from outrider.outbox_desk import OutboxDesk

    desk = OutboxDesk(agent or default_address(), folder=_folder(config))
    try:
        yield desk
    finally:
        desk.close()


def _folder(config: Path | None) -> Path | None:
    """The outbox of the configured device; None: there is no configuration here."""
    from outrider_edge.config import load_edge_config

    file = config or (Path("edge.toml") if Path("edge.toml").exists() else None)
    return load_edge_config(file).folder / "outbox" if file else None


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    plain = (entry[key] for key in ("id", "task", "state", "delivery", "worth"))
    return (
        *plain,
        f"{entry['gain']:.2f}",
        entry["offers"],
        entry["bytes"],
        _span(entry["age_s"]),
        _span(entry["left_s"]),
    )


def in_words(outbox: dict[str, Any]) -> str:
    """How full it is, and what is wrong with it."""
    text = (
        f"{outbox['count']:,} of {outbox['max_count']:,} entries, {outbox['bytes']:,} of {outbox['max_bytes']:,} bytes; "
        f"{sum(outbox['evictions'].values())} made way since the start"
    )
    return text + (f"; NOTHING CAN BE KEPT: {outbox['fault']}" if outbox["fault"] else "")


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
