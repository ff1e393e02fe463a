"""Whether the disk has room for what is about to be written of a release: asked before each step, as hours may pass between two."""

import shutil
from pathlib import Path

from outrider_wire.errors import OperatorSetupError

SPARE_BYTES = 16 * 1024 * 1024
"""Left free on the disk."""


def check_room(folder: Path, needed: int) -> None:
    """Whether so many bytes more fit on the disk of that folder, and some are left.

    Raises:
        OperatorSetupError: they do not, now (``disk_full``).
    """
    needed += SPARE_BYTES
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OperatorSetupError(
            f"the release needs {needed} more bytes on the disk, and {free} are free",
            reason="disk_full",
            fix="free the disk",
        )
