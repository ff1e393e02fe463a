"""Whether a device can take a release, asked before the first byte. Pure; cloud and device judge alike."""

import re
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from outrider_wire.limits import ENTRIES
from outrider_wire.names import END, Name

Release = Annotated[str, Meta(pattern=rf"^([0-9]{{1,6}}(\.[0-9]{{1,6}}){{0,3}})?{END}")]
"""A version's numbers: ``0.4``, ``1.2.3``; '' for any."""
Arch = Annotated[str, Meta(pattern=rf"^[a-z0-9_]{{1,32}}{END}")]

_NUMBERS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")


class Requires(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a release asks of a device."""

    agent: Release = ""
    """The oldest agent that runs it."""
    arch: Annotated[list[Arch], Meta(max_length=8)] = []
    """Any of these; empty: any."""
    profiles: Annotated[list[Name], Meta(max_length=ENTRIES)] = []
    """Any of these device profiles; empty: any."""
    memory_mb: Annotated[int, Meta(ge=0, le=16_777_216)] = 0
    """The least memory of the board."""


class Misfit(Struct, kw_only=True, frozen=True):
    """What a device lacks."""

    reason: str
    """``agent_too_old``, ``wrong_arch``, ``wrong_profile`` or ``too_little_memory``."""
    what: str


def misfit(requires: Requires, *, agent: str, facts: Mapping[str, str]) -> Misfit | None:
    """What keeps a device from taking the release; None: nothing.

    A device that does not say what is asked for is taken for one that lacks it: nothing is sent on a guess.

    Args:
        requires: What the release asks for.
        agent: The version of the device's agent, as it says.
        facts: What it says of itself; ``arch``, ``profile`` and ``memory_mb`` count here.
    """
    if requires.agent and _numbers(agent) < _numbers(requires.agent):
        return Misfit(reason="agent_too_old", what=f"its agent is {agent or 'unknown'}, and {requires.agent} is needed")
    if requires.arch and facts.get("arch", "") not in requires.arch:
        return Misfit(
            reason="wrong_arch", what=f"it is {facts.get('arch') or 'unknown'}, and not {' or '.join(requires.arch)}"
        )
    if requires.profiles and facts.get("profile", "") not in requires.profiles:
        said = facts.get("profile") or "unknown"
        return Misfit(
            reason="wrong_profile", what=f"its profile is {said}, and not {' or '.join(requires.profiles[:8])}"
        )
    memory = facts.get("memory_mb", "")
    if requires.memory_mb and not (memory.isascii() and memory.isdigit() and int(memory[:9]) >= requires.memory_mb):
        return Misfit(
            reason="too_little_memory",
            what=f"it has {f'{memory} MB' if memory else 'unknown memory'}, and needs {requires.memory_mb} MB",
        )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """(1, 2, 3, 0) of ``1.2.3rc1``; () of what begins with no number, which is older than anything."""
    found = _NUMBERS.match(version)
    return tuple(map(int, (found[0] + ".0.0.0").split(".")[:4])) if found else ()
