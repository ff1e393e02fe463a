"""The agent as a service of a machine: which files that takes, which of them somebody has changed, and laying them down.

Plans first, then writes; prints nothing. A file that is not as it was laid down is a person's, and is never overwritten.
"""

import difflib
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from outrider.machine import Machine, best_fit
from outrider_edge.profile import known, load_profile
from outrider_link.files import write_durably
from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorConfigError, OperatorSetupError
from outrider_wire.names import NAME_PATTERN
from outrider_wire.profile import Profile

UNITS = Path(__file__).parent / "units"
"""``firmware_configs/systemd``, reached by a link here and copied into the wheel."""
USER = "outrider"
COMMAND = "/opt/outrider/bin/outrider"
"""Where the unit of the repository looks for the command."""
CONFIGURATION = "etc/outrider"
RECEIPT = "etc/outrider/.installed.json"
"""Path → SHA-256 of what was laid down: what is still so may be replaced by what a newer Outrider brings."""
_DROP_INS = "etc/systemd/system/outrider-edge.service.d"
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - they are refused, not written to
"""What the unit does not see."""

State = Literal["new", "same", "outdated", "changed"]

_EDGE_TOML = """\
# This device. `outrider config show edge.toml` shows every value in force and where it comes from, `outrider config schema edge`
# all keys. What stands here wins over the profile. Paths are relative to this file. docs/profiles.md, docs/access.md.

data_dir = "{data_dir}"

[runtime]
profile = "{profile}"

[[tasks]]
file = "task.toml"
bundle = "bundle"                # what answers until an update brings another
"""


class Wish(NamedTuple):
    """What is to be installed."""

    profile: Profile
    named: str
    """The profile as ``edge.toml`` names it."""
    own: bytes = b""
    """The text of a profile that does not come with Outrider; it is laid down too."""
    root: Path = Path("/")
    command: str = COMMAND


class Piece(NamedTuple):
    """One file of the service."""

    path: Path
    data: bytes
    what: str
    state: State
    was: bytes = b""
    """What stands there."""

    @property
    def written(self) -> bool:
        """Whether installing writes it."""
        return self.state in ("new", "outdated")

    @property
    def diff(self) -> str:
        """From what stands to what would; '' where all is the same."""
        old, new = (data.decode("utf-8", "replace").splitlines(keepends=True) for data in (self.was, self.data))
        return "".join(
            difflib.unified_diff(
                old, new, "/dev/null" if self.state == "new" else str(self.path), f"{self.path} (to be)"
            )
        )


def wished(named: str, machine: Machine, *, root: Path, command: str) -> Wish:
    """What installing that profile asks for; without a name, the one that fits this machine.

    Raises:
        OperatorConfigError: no such profile, or none that fits; or a command that systemd would read otherwise.
        OperatorSetupError: the command lies where the hardened unit does not see it.
    """
    if not named:
        found = best_fit((load_profile(name, Path()) for name in known()), machine)
        if found is None:
            raise OperatorConfigError(
                f"no profile fits this machine ({machine.arch})",
                reason="unknown_profile",
                fix=f"write one (docs/profiles.md) and give it with --profile FILE; known ones: {', '.join(known())}",
            )
        named = found.name
    profile = load_profile(named, Path())
    if not re.fullmatch(r"/[A-Za-z0-9._/+-]+", command):
        raise OperatorConfigError(
            f"{command!r} cannot stand in a unit",
            reason="invalid_command",
            fix="give an absolute path of plain characters",
        )
    if command.startswith(_HIDDEN):
        raise OperatorSetupError(
            f"the service would not see {command}: it has no access to homes and temporary folders",
            reason="command_hidden",
            fix="install Outrider in /opt/outrider (python3 -m venv /opt/outrider), or name another with --command",
        )
    if re.fullmatch(NAME_PATTERN, named):
        return Wish(profile, named, root=root, command=command)
    return Wish(profile, "./profile.toml", Path(named).read_bytes(), root, command)


def this_command() -> str:
    """The command that runs now, beside its interpreter."""
    return str(Path(sys.executable).parent / "outrider")


def plan(wish: Wish) -> list[Piece]:
    """Every file, and how it stands; nothing is written.

    Raises:
        OperatorSetupError: a file that is there cannot be read.
    """
    receipt = _receipt(wish.root)
    return [_compared(wish.root, name, data, what, receipt) for name, data, what in _files(wish)]


def _files(wish: Wish) -> Iterator[tuple[str, bytes, str]]:
    storage = wish.profile.storage
    data_dir = storage.data_dir or "/var/lib/outrider"
    yield "etc/sysusers.d/outrider.conf", (UNITS / "outrider.sysusers.conf").read_bytes(), "its user"
    unit = (UNITS / "outrider-edge.service").read_text().replace(COMMAND, wish.command)
    yield "etc/systemd/system/outrider-edge.service", unit.encode(), "the service"
    if wish.profile.hardware.compute_capability:
        yield f"{_DROP_INS}/gpu.conf", (UNITS / "outrider-edge-gpu.conf").read_bytes(), "what it may do with the GPU"
    if others := _elsewhere(wish.profile):
        text = f"[Service]\nReadWritePaths={' '.join(others)}\n"
        yield f"{_DROP_INS}/storage.conf", text.encode(), "where else it may write"
    text = _EDGE_TOML.format(data_dir=data_dir, profile=wish.named)
    yield f"{CONFIGURATION}/edge.toml", text.encode(), "its configuration"
    if wish.own:
        yield f"{CONFIGURATION}/profile.toml", wish.own, "its profile"


def _elsewhere(profile: Profile) -> list[str]:
    """Folders that the unit's own StateDirectory and CacheDirectory do not cover."""
    usual = ("/var/lib/outrider", "/var/cache/outrider")
    return [
        folder for folder in (profile.storage.data_dir, profile.storage.cache_dir) if folder and folder not in usual
    ]


def folders(wish: Wish) -> list[Path]:
    """The folders that are the service's own."""
    storage = wish.profile.storage
    named = (storage.data_dir or "/var/lib/outrider", storage.cache_dir or "/var/cache/outrider")
    return [wish.root / folder.lstrip("/") for folder in named]


def _compared(root: Path, name: str, data: bytes, what: str, receipt: Mapping[str, str]) -> Piece:
    path = root / name
    try:
        was = path.read_bytes() if path.exists() or path.is_symlink() else None
    except OSError as error:
        raise _unwritable(path, error) from error
    if was is None:
        return Piece(path, data, what, "new")
    if was == data:
        return Piece(path, data, what, "same", was)
    ours = receipt.get(name) == hashlib.sha256(was).hexdigest()
    return Piece(path, data, what, "outdated" if ours else "changed", was)


def _receipt(root: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((root / RECEIPT).read_bytes(), type=decodable(dict[str, str]))
    except (OSError, msgspec.MsgspecError):
        return {}


def install(wish: Wish, pieces: Sequence[Piece]) -> None:
    """Writes what is new or outdated, makes the folders, and on this machine itself the user; starts nothing.

    Raises:
        OperatorSetupError: a file cannot be written, or systemd does not take it.
    """
    receipt = _receipt(wish.root)
    here = wish.root == Path("/")
    path = wish.root
    try:
        for piece in pieces:
            path = piece.path
            if piece.written:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                write_durably(path, piece.data, mode=0o644)
            if piece.state != "changed":
                receipt[str(path.relative_to(wish.root))] = hashlib.sha256(piece.data).hexdigest()
        path = wish.root / RECEIPT
        write_durably(path, msgspec.json.format(msgspec.json.encode(receipt)) + b"\n", mode=0o644)
        for path in folders(wish):
            path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise _unwritable(path, error) from error
    if here:
        _run("systemd-sysusers", "/etc/sysusers.d/outrider.conf")
        _run("chown", f"{USER}:", *map(str, folders(wish)))
        _run("systemctl", "daemon-reload")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        said, failed = done.stderr.strip(), done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, failed = str(error), True
    if failed:
        raise OperatorSetupError(
            f"{' '.join(command)} failed: {said[:300]}",
            reason="systemd_refused",
            fix="correct that and install again: what is laid down stays",
        )


def _unwritable(path: Path, error: OSError) -> OperatorSetupError:
    return OperatorSetupError(
        f"{path} cannot be written: {error.strerror}",
        reason="folder_unwritable",
        fix="run it with sudo" if os.geteuid() else "look at its folder",
    )
