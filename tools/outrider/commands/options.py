"""The flags that every command spells alike."""

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", envvar="OUTRIDER_JSON", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", envvar="OUTRIDER_QUIET", help="Print only what was asked for.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AgentAddress = Annotated[
    str,
    typer.Option("--agent", envvar="OUTRIDER_AGENT", help="Address of the agent: http://HOST:PORT or unix:/PATH."),
]
LogFormat = Annotated[str, typer.Option(envvar="OUTRIDER_LOG_FORMAT", help="console or json.")]
LogLevel = Annotated[str, typer.Option(envvar="OUTRIDER_LOG_LEVEL", help="debug, info, warning or error.")]
BundleDir = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of the bundle.")]


def group(about: str) -> typer.Typer:
    """A command with sub-commands, set up like all of them."""
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


def nested(**flags: Any) -> dict[str, Any]:
    """Overrides of a configuration from flags: ``broker__url="…"`` → ``{"broker": {"url": "…"}}``; those not given are left out."""
    overrides: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value == "":
            continue
        *tables, key = name.split("__")
        table = overrides
        for each in tables:
            table = table.setdefault(each, {})
        table[key] = str(value.absolute()) if isinstance(value, Path) else value
    return overrides


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both, table by table; ``over`` wins."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
