"""The flags that every command spells alike."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.logs import LogFormat, LogLevel

Json = Annotated[bool, typer.Option("--json", envvar="OUTRIDER_JSON", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", envvar="OUTRIDER_QUIET", help="Print only what was asked for.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AgentAddress = Annotated[
    str,
    typer.Option("--agent", envvar="OUTRIDER_AGENT", help="Address of the agent: http://HOST:PORT or unix:/PATH."),
]
LogForm = Annotated[LogFormat, typer.Option("--log-format", envvar="OUTRIDER_LOG_FORMAT", help="How events look.")]
LogFrom = Annotated[LogLevel, typer.Option("--log-level", envvar="OUTRIDER_LOG_LEVEL", help="The least that is said.")]
CloudFile = Annotated[
    Path | None,
    typer.Option("--config", envvar="OUTRIDER_CLOUD_CONFIG", help="cloud.toml; default: the one in this folder."),
]
TaskName = Annotated[str, typer.Option("--task", metavar="NAME", help="Name of a task in cloud.toml.")]
CloudAddress = Annotated[
    str,
    typer.Option("--cloud", envvar="OUTRIDER_OTA_CLOUD", help="Address of the cloud's HTTP API."),
]
CloudToken = Annotated[
    Path | None,
    typer.Option(envvar="OUTRIDER_OTA_TOKEN_FILE", metavar="FILE", help="File with the cloud's bearer token."),
]
BundleDir = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of the bundle.")]


def group(about: str) -> typer.Typer:
    """A command with sub-commands, set up like all of them."""
    return typer.Typer(
        help=about,
        callback=_stays_a_group,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


def _stays_a_group() -> None:
    """Without a callback, typer would take a group of one command for that command."""
