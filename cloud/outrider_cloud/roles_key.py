"""The secret behind the data roles. Made once: another one would move every group to another role."""

import os
import secrets
from pathlib import Path

from outrider_cloud.config import CloudConfig
from outrider_link.files import fsync_dir
from outrider_link.settings import read_secret


def roles_key(config: CloudConfig) -> str:
    """The key that the configuration names, or the data folder's own, made when absent (two processes may start at once).

    Raises:
        OperatorConfigError: the file that was named is missing or empty.
    """
    path = Path(config.roles.key_file) if config.roles.key_file else config.folder / "roles.key"
    if not config.roles.key_file and not path.exists():
        _make(path)
    return read_secret(path, "key of the data roles")


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secrets.token_hex(32)}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # unlike a rename, leaves the one that another process has just made
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    fsync_dir(path.parent)
