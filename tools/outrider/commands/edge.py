"""``outrider edge``: the agent on a device. Nothing of this room is imported before the command that needs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands import edge_installing, edge_updating, inferring, joining, outbox
from outrider.commands.agent_options import Config, Demo, TaskBundle, TaskFile, configuration
from outrider.commands.options import AgentAddress, Json, LogForm, LogFrom, Quiet, group
from outrider.logs import LogFormat, LogLevel

app = group("Run the agent on a device, or ask a model once.")
app.command(name="infer")(inferring.infer)
app.command(name="join")(joining.join)
app.command(name="install")(edge_installing.install)
app.add_typer(outbox.app, name="outbox")
app.add_typer(edge_updating.app, name="update")


@app.command()
def run(
    *,
    demo: Demo = False,
    config: Config = None,
    task: TaskFile = None,
    bundle: TaskBundle = None,
    device: Annotated[str, typer.Option(help="Name of this device; default: the host's.")] = "",
    broker: Annotated[str, typer.Option(metavar="mqtt://HOST:PORT", help="The broker; none: alone.")] = "",
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where everything durable is kept.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the local API; 0: any free one.")] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="Unix socket to serve as well.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Where inputs come from, again and again: docs/sources.md."),
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="A part that all inputs of --source have.")
    ] = None,
    local_broker: Annotated[
        str, typer.Option(metavar="mqtt://HOST:PORT", help="The broker of --source mqtt:…, told of events.")
    ] = "",
    log_format: LogForm = LogFormat.CONSOLE,
    log_level: LogFrom = LogLevel.INFO,
) -> None:
    """Answer inputs until SIGTERM. Flags win over OUTRIDER_EDGE_… variables, these over the file."""
    import asyncio

    from outrider import logs, start
    from outrider_edge.app import serve

    logs.set_up(form=log_format, level=log_level)
    flags = {"device": device, "broker__url": broker, "data_dir": data_dir, "api__port": port, "api__socket": socket}
    flags |= {"local_broker__url": local_broker} | start.sources(source or [], start.texts(part or []))
    asyncio.run(serve(configuration(config, demo, task, bundle, flags)))


@app.command()
def ps(agent: AgentAddress = "", json: Json = False, quiet: Quiet = False) -> None:
    """Show what the agent on this machine runs, and its account."""
    from outrider.client import Client
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    with Client(agent, timeout_s=10) as client:
        status = client.status()
    account = status["account"]
    screen.result(
        status,
        f"{status['device']}: up {status['uptime_s']:.0f} s, broker {status['broker']}, {account['received']} inputs "
        f"({account['edge']} answered here, {account['cloud']} by the cloud, {account['pending']} pending, "
        f"{account['expired']} expired, {account['refused']} refused)",
    )
    slots = {slot["task"]: slot for slot in status["slots"]}
    screen.table(
        ("task", "model", "digest", "slot", "state", "certificate", "keeps from", "watch"),
        [_model_row(task, slots.get(task["name"], {})) for task in status["tasks"]],
    )
    if status["budgets"]:
        screen.table(("task", "limit", "of", "spent", "left", "bucket", "audits"), list(_limit_rows(status["budgets"])))
    if status["memories"]:
        screen.table(
            ("task", "memory", "answers", "hits", "audited", "disagreed"),
            [_memory_row(task, memory) for task, memory in status["memories"].items()],
        )
    if status.get("sources"):
        columns = ("kind", "state", "read", "dropped", "paced", "events", "asked", "refused", "fault")
        screen.table(
            ("source", *columns),
            [(name, *(str(about[key]) for key in columns)) for name, about in status["sources"].items()],
        )
    if status.get("outbox") and not json and not quiet:
        print(f"outbox: {outbox.in_words(status['outbox'])}")
    for task in status["tasks"]:
        if not json and not quiet:
            print("\n".join(f"{task['name']}: {line}" for line in _promise_lines(task)))


def _limit_rows(budgets: dict[str, dict[str, dict[str, float]]]) -> Iterator[tuple[object, ...]]:
    for task, limits in budgets.items():
        for name, limit in limits.items():
            amounts = (f"{limit[key]:,g}" for key in ("limit", "spent", "left"))
            yield (task, name, *amounts, f"{limit['bucket']:.0%}", f"{limit['audits']:,g}")


def _memory_row(task: str, memory: dict[str, Any]) -> tuple[object, ...]:
    counts = (memory[key] for key in ("entries", "hits", "audited", "disagreed"))
    return (task, "off: its audits disagreed too often" if memory["off"] else "on", *counts)


def _model_row(task: dict[str, Any], slot: dict[str, Any]) -> tuple[object, ...]:
    threshold = task["threshold"]
    return (
        task["name"],
        task["model"],
        task["model_digest"][:12],
        slot.get("slot", "–"),
        slot.get("state", "–"),
        task["certificate"] or f"none: {task['certificate_fault']}",
        "–" if threshold is None else f"{threshold:.4f}",
        task["watch"]["state"],
    )


def _promise_lines(task: dict[str, Any]) -> list[str]:
    """How the watch over the certificate stands, and what shadow mode would have done."""
    lines, shadow = [task["watch"]["what"]], task["shadow"]
    if task["target_gap"] is not None:
        lines.append(f"with the large model wrong at most {task['target_gap']:.1%} more often than it alone")
    elif task["gap_fault"]:
        lines.append(f"nothing is promised of the system any more: {task['gap_fault']}")
    if shadow is not None and not shadow["seen"]:
        lines.append("shadow mode has seen no input yet")
    elif shadow is not None:
        share = shadow["would_send"] / shadow["seen"]
        lines.append(f"shadow mode would have escalated {share:.0%} of {shadow['seen']:,}")
    return lines
