"""``outrider edge``: the agent on a device. Nothing of this room is imported before the command that needs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands import edge_installing, joining, outbox
from outrider.commands.options import AgentAddress, Json, LogForm, LogFrom, Quiet, group
from outrider.logs import LogFormat, LogLevel

app = group("Run the agent on a device, or ask a model once.")
app.command(name="join")(joining.join)
app.command(name="install")(edge_installing.install)
app.add_typer(outbox.app, name="outbox")

Config = Annotated[
    Path | None, typer.Option(envvar="OUTRIDER_EDGE_CONFIG", help="edge.toml; default: the one in this folder.")
]
Demo = Annotated[bool, typer.Option("--demo", help="The certified task and bundle that come with Outrider.")]
TaskFile = Annotated[Path | None, typer.Option(metavar="FILE", help="This one task, with --bundle.")]
TaskBundle = Annotated[Path | None, typer.Option(metavar="DIR", help="The bundle that answers --task.")]


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
    log_format: LogForm = LogFormat.CONSOLE,
    log_level: LogFrom = LogLevel.INFO,
) -> None:
    """Answer inputs until SIGTERM. Flags win over OUTRIDER_EDGE_… variables, these over the file."""
    import asyncio

    from outrider import logs
    from outrider_edge.app import serve

    logs.set_up(form=log_format, level=log_level)
    flags = {"device": device, "broker__url": broker, "data_dir": data_dir, "api__port": port, "api__socket": socket}
    asyncio.run(serve(_configuration(config, demo, task, bundle, flags)))


@app.command()
def infer(
    *,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]…", help="One input each.")] = None,
    part: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A part of every input; NAME=@FILE reads a file.")
    ] = None,
    demo: Demo = False,
    config: Config = None,
    task: TaskFile = None,
    bundle: TaskBundle = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say the decision in words, not in JSON.")] = False,
) -> None:
    """Ask a model once, in this process: one JSON line an input.

    It is the configured bundle that answers, not what an update has put beside it. Nothing is sent anywhere.
    """
    from outrider import infer as one_shot
    from outrider.output import Screen
    from outrider_edge.config import read_task
    from outrider_wire.errors import CallerInputError

    parts = one_shot.parse_parts(part or [])
    if not files and not parts:
        raise CallerInputError("there is nothing to ask", reason="no_input", fix="name a file, or give --part")
    entry = _configuration(config, demo, task, bundle, {}).tasks[0]
    asked = one_shot.OneShot(task=read_task(entry), bundle_dir=Path(entry.bundle))
    screen, failed = Screen(json=True), False
    for outcome in asked.answers(files or [], parts):
        failed |= outcome.report is None
        if explain:
            print(_in_words(outcome, asked.manifest))
        else:
            screen.value(_as_json(outcome))
    if failed:
        raise typer.Exit(1)


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


def _configuration(
    config: Path | None, demo: bool, task: Path | None, bundle: Path | None, settings: dict[str, Any]
) -> Any:
    """The `outrider_edge.config.EdgeConfig` that the flags, the environment and the file make together."""
    from outrider import start
    from outrider.settings_files import FileKind
    from outrider_edge.config import load_edge_config
    from outrider_wire.settings import merged

    if demo:
        task, bundle = _demo()
    flags = start.nested(**settings)
    flags |= start.one_task(task, bundle=str(bundle.absolute()) if bundle else "")
    file = start.file_of(FileKind.EDGE, config, flags)
    below = {"data_dir": "outrider-edge-demo"} if demo and file is None else {}
    return load_edge_config(file, merged(below, start.overrides(FileKind.EDGE, flags)))


def _demo() -> tuple[Path, Path]:
    """The task and bundle in the wheel.

    Raises:
        OperatorSetupError: this installation has none.
    """
    import outrider_edge
    from outrider_wire.errors import OperatorSetupError

    folder = Path(outrider_edge.__file__).parent / "demo"
    if not (folder / "task.toml").is_file():
        raise OperatorSetupError(
            "this installation carries no demo bundle", reason="no_demo", fix="install Outrider again, or name --bundle"
        )
    return folder / "task.toml", folder / "bundle"


def _as_json(outcome: Any) -> dict[str, Any]:
    import msgspec

    from outrider.output import document

    said = {"error": document(outcome.error)} if outcome.report is None else msgspec.to_builtins(outcome.report)
    return {"file": outcome.file, **said}


def _in_words(outcome: Any, manifest: Any) -> str:
    from outrider.infer import explain

    head = f"{outcome.file}: " if outcome.file else ""
    return head + (f"error: {outcome.error}" if outcome.report is None else explain(outcome.report, manifest))
