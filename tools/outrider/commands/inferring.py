"""``outrider edge infer``: one JSON line a file, by a model in this process or by the agent on this machine."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.agent_options import Config, Demo, TaskBundle, TaskFile, configuration
from outrider.commands.options import AgentAddress


def infer(
    *,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]…", help="One input each.")] = None,
    part: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A part of every input; NAME=@FILE reads a file.")
    ] = None,
    watch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Each file that appears here, until Ctrl-C or SIGTERM.")
    ] = None,
    done: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where watched files go once answered; refused ones into refused/."),
    ] = None,
    wait: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Ask the running agent; wait so long for the large model.")
    ] = None,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="Ask the running agent; take the device's own answer at once.")
    ] = False,
    agent: AgentAddress = "",
    demo: Demo = False,
    config: Config = None,
    task: TaskFile = None,
    bundle: TaskBundle = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say the decision in words, not in JSON.")] = False,
) -> None:
    """Ask a model, or the running agent: one JSON line an input.

    In this process it is the configured bundle that answers, not what an update has put beside it, and nothing is sent anywhere.
    """
    from outrider import asking
    from outrider.infer import parse_parts

    parts = parse_parts(part or [])
    through_agent = wait is not None or provisional
    for wrong, what in (
        (not files and not parts and watch is None, "there is nothing to ask: name a file, a folder or a --part"),
        (files and watch is not None, "files and --watch cannot both be asked about"),
        (done is not None and watch is None, "--done belongs to --watch"),
        (provisional and wait is not None, "--provisional does not wait: give it or --wait"),
        (
            through_agent and explain,
            "--explain reads the bundle, and the running agent has its own: leave one of them out",
        ),
        (through_agent and (demo or config or bundle), "the running agent has its own bundle: name at most --task"),
    ):
        if wrong:
            raise _usage(what)
    with _agent(agent, task, wait) if through_agent else _one_shot(config, demo, task, bundle) as asker:
        if watch is None:
            outcomes = asking.answers(asker, files or [], parts)
        else:
            outcomes = asking.answers_from_folder(asker, watch, parts, done=done, stop=asking.until_signal())
        failed = _said(outcomes, asker.manifest if explain else None)
    if failed and watch is None:
        raise typer.Exit(1)


@contextmanager
def _one_shot(config: Path | None, demo: bool, task: Path | None, bundle: Path | None) -> Iterator[Any]:
    """A `outrider.infer.OneShot` of the configured task."""
    from outrider.infer import OneShot
    from outrider_edge.config import read_task

    entry = configuration(config, demo, task, bundle, {}).tasks[0]
    asker = OneShot(task=read_task(entry), bundle_dir=Path(entry.bundle))
    _ = asker.manifest  # a bundle that cannot be used is refused before any file is
    yield asker


@contextmanager
def _agent(address: str, task: Path | None, wait_s: float | None) -> Iterator[Any]:
    """A `outrider.asking.AgentAsker` of the agent on this machine."""
    from outrider.asking import AgentAsker
    from outrider.client import Client
    from outrider_link.settings import read_text
    from outrider_wire.task import parse_task

    name = parse_task(read_text(task), str(task)).name if task else ""
    with Client(address) as client:
        yield AgentAsker(client=client, task=name, wait_s=wait_s)


def _said(outcomes: Iterable[Any], manifest: Any) -> bool:
    """Prints each outcome as it comes; whether one was an error."""
    from outrider.output import Screen

    screen, failed = Screen(json=True), False
    for outcome in outcomes:
        failed |= outcome.report is None
        if manifest is None:
            screen.value(_as_json(outcome))
        else:
            print(_in_words(outcome, manifest), flush=True)
    return failed


def _as_json(outcome: Any) -> dict[str, Any]:
    import msgspec

    from outrider.output import document

    said = {"error": document(outcome.error)} if outcome.report is None else msgspec.to_builtins(outcome.report)
    return {"file": outcome.file, **said}


def _in_words(outcome: Any, manifest: Any) -> str:
    from outrider.infer import explain

    head = f"{outcome.file}: " if outcome.file else ""
    return head + (f"error: {outcome.error}" if outcome.report is None else explain(outcome.report, manifest))


def _usage(what: str) -> Exception:
    from outrider_wire.errors import OperatorConfigError

    return OperatorConfigError(what, reason="usage")
