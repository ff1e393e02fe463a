"""The command ``outrider``: one table of commands, each loaded only when it is the one asked for. Does no work itself."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from outrider.output import fail


class Entry(NamedTuple):
    """Where a command lives: a module with a `typer.Typer` named ``app``."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "edge": Entry("outrider.commands.edge", "Run the agent on a device, or ask a model once."),
    "cloud": Entry("outrider.commands.cloud", "Serve the large model to devices."),
    "broker": Entry("outrider.commands.broker", "Run the embedded MQTT broker for a lab, or secure mosquitto."),
    "task": Entry("outrider.commands.task", "Write and check task files."),
    "config": Entry("outrider.commands.config", "Check and show settings, task files and device profiles."),
    "export": Entry("outrider.commands.export", "Turn a trained model into a certified bundle."),
    "certify": Entry("outrider.commands.certify", "Certify rows, a bundle or audits; say what labels would buy."),
    "bundle": Entry("outrider.commands.bundle", "Look into bundles, verify and compare them."),
    "distill": Entry("outrider.commands.distill", "Train small models from a large one, and from escalations."),
    "data": Entry("outrider.commands.data", "Bring labelled data into the cloud's store, and count it."),
    "ota": Entry("outrider.commands.ota", "Publish bundles to devices over the air."),
    "demo": Entry("outrider.commands.demo", "Play the whole loop on this machine, with real models and data."),
    "bench": Entry("outrider.commands.bench", "Measure what Outrider costs, against the bare thing."),
    "sim": Entry("outrider.commands.sim", "Cause real faults, and check that nothing is lost."),
    "doctor": Entry("outrider.commands.doctor", "Check this machine, and say how to fix what is wrong."),
}
"""A new command is one line here."""


class LazyGroup(TyperGroup):
    """Lists the table as it stands; imports a command's module only to run it or to give its own help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name, help=entry.summary, rich_markup_mode=None) for name, entry in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself, in place of its line in the list."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else listed, rest


def load(name: str) -> Any:
    """The command of that name in the table, ready to be called."""
    command = typer.main.get_command(import_module(COMMANDS[name].module).app)
    command.name = name
    return command


app = typer.Typer(
    name="outrider",
    cls=LazyGroup,
    help="Small models on devices, a large model behind them, updates over the air.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by a rule, 4 unreachable, 5 undecided or timed out.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help costs 150 ms, and breaks lines where a reader of a pipe needs them whole
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"outrider {version('outrider')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """The console script. Exits with the code of `outrider_wire.errors.OutriderError.exit_code`, never with a traceback."""
    # Idle OpenMP threads that spin make a 10 s training take minutes when anything else runs; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        typer.main.get_command(app)(prog_name="outrider")
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever is left becomes one sentence and an exit code
        sys.exit(fail(error, json="--json" in sys.argv or os.environ.get("OUTRIDER_JSON") in ("1", "true")))
