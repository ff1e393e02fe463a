"""Finds the device profile that a configuration names, and turns it into settings below the file's own. Looks at no machine."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from outrider_link.settings import read_text
from outrider_wire.errors import OperatorConfigError
from outrider_wire.names import NAME_PATTERN
from outrider_wire.profile import Profile, parse_profile

FOLDER = Path(__file__).parent / "profiles"
"""The profiles that come with Outrider: ``firmware_configs/profiles``, reached by a link here and copied into the wheel."""


def known() -> list[str]:
    """Names of the profiles that come with Outrider."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def anchored_name(named: str, folder: Path) -> str:
    """The same name, or the absolute path of what is none."""
    return named if not named or re.fullmatch(NAME_PATTERN, named) else str(folder / named)


def load_profile(named: str, folder: Path) -> Profile:
    """The profile of that name; anything that is no name is the path of a file, relative to ``folder``.

    Raises:
        OperatorConfigError: no such profile (with the known ones), or a file that is missing or no profile.
    """
    if not re.fullmatch(NAME_PATTERN, named):
        path = folder / named
    elif named in (names := known()):
        path = FOLDER / f"{named}.toml"
    else:
        near = difflib.get_close_matches(named, names, n=1, cutoff=0.6)
        raise OperatorConfigError(
            f"no profile is called {named!r}",
            reason="unknown_profile",
            fix=(f"did you mean {near[0]!r}? " if near else "")
            + f"known ones: {', '.join(names)}; or name a file, as in ./{named}.toml",
        )
    return parse_profile(read_text(path), str(path))


def settings_below(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the profile says that ``data`` (an ``edge.toml`` as plain data) names, nested like ``edge.toml``; {} without one.

    Raises:
        OperatorConfigError: as `load_profile`.
    """
    runtime = data.get("runtime")
    named = runtime.get("profile") if isinstance(runtime, Mapping) else None
    if not isinstance(named, str) or not named:
        return {}  # of another type: said where the whole file is checked
    settings = as_settings(load_profile(named, folder))
    if isinstance(runtime, Mapping) and "providers" in runtime:
        del settings["runtime"]["required"]  # of another list of providers
    if "data_dir" in data:
        settings["runtime"].pop("cache_dir", None)  # what is kept elsewhere keeps its cache there
    return settings


def as_settings(profile: Profile) -> dict[str, Any]:
    """The settings of ``edge.toml`` that a profile stands for, nested like it."""
    runtime, storage, limits = profile.runtime, profile.storage, profile.limits
    settings: dict[str, Any] = {
        "runtime": {
            "threads": runtime.threads,
            "providers": runtime.providers,
            "required": runtime.required,
            "precisions": runtime.precisions,
        },
        "thermal": msgspec.to_builtins(profile.thermal),
    }
    for key, value in (
        ("models_mb", limits.models_mb),
        ("cache_mb", limits.cache_mb),
        ("cache_dir", storage.cache_dir),
    ):
        if value is not None:
            settings["runtime"][key] = value
    if storage.data_dir is not None:
        settings["data_dir"] = storage.data_dir
    if limits.outbox_mb is not None:
        settings["outbox"] = {"max_bytes": limits.outbox_mb * 1024 * 1024}
    return settings
