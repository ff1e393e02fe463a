"""A folder's files, and where they go once they are asked about. Knows no task; `settling` says which files are whole."""

import os
import stat
from pathlib import Path

from outrider_edge.sources.settling import Mark
from outrider_wire.errors import OperatorSetupError

REFUSED = "refused"
"""Folder, within the one for what is done, for files that are no input of the task."""


def listing(folder: Path) -> dict[str, Mark]:
    """Its plain files. Links are not followed: they could lead anywhere.

    Raises:
        OperatorSetupError: it cannot be read.
    """
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    about = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # gone since
                    continue
                if stat.S_ISREG(about.st_mode):
                    found[entry.name] = Mark(about.st_mtime_ns, about.st_size, about.st_ino)
    except OSError as error:
        raise OperatorSetupError(
            f"the folder {folder} cannot be read: {error.strerror}",
            reason="unreadable_folder",
            fix="make it, or name another",
        ) from error
    return found


def put_away(file: Path, done: Path, *, refused: bool) -> Path:
    """Moves a file that is done with into ``done``, or below it what was refused; nothing there is overwritten.

    Raises:
        OperatorSetupError: it cannot be moved.
    """
    folder = done / REFUSED if refused else done
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target, number = folder / file.name, 0
        while True:
            try:
                os.link(file, target, follow_symlinks=False)
                break
            except FileExistsError:
                number += 1
                target = folder / f"{file.stem}-{number}{file.suffix}"
        file.unlink()
    except OSError as error:
        raise OperatorSetupError(
            f"{file} cannot be moved to {folder}: {error.strerror}",
            reason="not_moved",
            fix="name a folder on the same disk that can be written",
        ) from error
    return target
