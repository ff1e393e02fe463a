"""Flags that many commands of ``outrider ota`` share, as one table: a command names those that it takes, and gets what they came to."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider.commands.options import CloudAddress, DryRun, Json, Quiet, Yes
from outrider.commands.ota_options import (
    DEFAULT_REPOSITORY,
    CaFile,
    CloudOf,
    Folder,
    PassphraseFile,
    TokenFile,
    cloud_of,
    workplace,
)
from outrider.output import Screen
from outrider.releases import DEFAULT_CLOUD

if TYPE_CHECKING:
    from outrider.ota.cloudlink import CloudSource
    from outrider.ota.workplace import Workplace
    from outrider.releases import CloudApi
    from outrider.rollouts import RolloutApi

Command = Callable[..., None]
SHARED: dict[str, tuple[Any, Any]] = {
    "folder": (Folder, DEFAULT_REPOSITORY),
    "cloud": (CloudAddress, DEFAULT_CLOUD),
    "cloud_of": (CloudOf, ""),
    "token_file": (TokenFile, None),
    "ca_file": (CaFile, None),
    "passphrase_file": (PassphraseFile, None),
    "dry_run": (DryRun, False),
    "yes": (Yes, False),
    "json": (Json, False),
    "quiet": (Quiet, False),
}
"""Flag → how it is spelt, and its default. ``cloud_of`` is a cloud that may be left out."""
LOOK = ("json", "quiet")
ASK = ("cloud", "token_file", "ca_file", *LOOK)
ACT = ("cloud", "token_file", "ca_file", "dry_run", "yes", *LOOK)
FOLDER = ("folder", *LOOK)
RENEW = ("folder", "dry_run", *LOOK)
FOUND = ("folder", "passphrase_file", "dry_run", *LOOK)
CHANGE = ("folder", "dry_run", "yes", *LOOK)
PROPOSE = ("folder", "passphrase_file", "dry_run", "yes", *LOOK)
PUBLISH = ("folder", "cloud_of", "token_file", "ca_file", "passphrase_file", "dry_run", *LOOK)


class Given:
    """What the shared flags of a command came to; what it does not take is at its default."""

    def __init__(self, **values: Any) -> None:
        found = {name: default for name, (_, default) in SHARED.items()} | values
        self.dry_run: bool = found["dry_run"]
        self.yes: bool = found["yes"]
        self.screen = Screen(json=found["json"], quiet=found["quiet"])
        self._found = found

    @functools.cached_property
    def place(self) -> "Workplace":
        """The working copy."""
        return workplace(self.folder, self.passphrase_file)

    @property
    def folder(self) -> Path:
        """Where the working copy is."""
        path: Path = self._found["folder"]
        return path

    @property
    def passphrase_file(self) -> Path | None:
        """Holds the passphrase of key files."""
        path: Path | None = self._found["passphrase_file"]
        return path

    @property
    def link(self) -> "tuple[CloudApi, CloudSource] | None":
        """The cloud and its repository; None where none was named."""
        return cloud_of(self._found["cloud_of"], self._found["token_file"], self._found["ca_file"])

    @functools.cached_property
    def api(self) -> "RolloutApi":
        """The cloud's rollouts."""
        from outrider import releases, rollouts

        token_file, ca_file = self._found["token_file"], self._found["ca_file"]
        return rollouts.RolloutApi(releases.CloudApi(self._found["cloud"], token_file=token_file, ca_file=ca_file))


def sharing(*names: str) -> Callable[[Command], Command]:
    """Gives a command the shared flags of these names, after its own; it takes them together, as ``given``."""

    def decorate(command: Command) -> Command:
        own = [each for each in inspect.signature(command).parameters.values() if each.name != "given"]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=SHARED[name][1], annotation=SHARED[name][0])
            for name in names
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            shared = {name: values.pop(name) for name in names}
            command(**values, given=Given(**shared))

        run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
        return run

    return decorate
