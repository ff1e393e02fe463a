"""A folder's files, and where they go once they are asked about. Knows no task; `settling` says which files are whole."""

import os
import stat
from pathlib import Path

from outrider_edge.sources.settling import Mark
from outrider_wire.errors import CallerError, OperatorSetupError, OutriderError

REFUSED, FAILED = "refused", "failed"
"""Folders, within the one for what is done: for files that are no input of the task, and for those on which its model fails."""
ERROR = ".error"
"""Ending of the note beside such a file, which says why."""


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


def put_away(file: Path, done: Path, *, trouble: OutriderError | None = None) -> Path:
    """Moves a file that is done with into ``done``, or below it what was refused or failed; nothing there is overwritten.

    Args:
        trouble: why there is no answer; it is written beside the file, as ``NAME.error``.

    Raises:
        OperatorSetupError: it cannot be moved.
    """
    folder = done if trouble is None else done / (REFUSED if isinstance(trouble, CallerError) else FAILED)
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
        if trouble is not None:
            target.with_name(target.name + ERROR).write_text(f"{trouble.reason}: {trouble}\n", "utf-8")
        file.unlink()
    except OSError as error:
        raise OperatorSetupError(
            f"{file} cannot be moved to {folder}: {error.strerror}",
            reason="not_moved",
            fix="name a folder on the same disk that can be written",
        ) from error
    return target
