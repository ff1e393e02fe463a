"""What an agent stands on before anything runs: its folder, its secret, its addresses. Every lack is said in one sentence."""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
from pathlib import Path

from outrider_edge.config import ApiSettings, EdgeConfig
from outrider_link.files import make_folder, write_durably
from outrider_link.settings import read_secret
from outrider_wire.errors import OperatorSetupError

AUDIT_KEY = "audit.key"


def hold_folder(folder: Path) -> int:
    """Makes the data folder and locks it; the descriptor holds the lock until it is closed.

    Raises:
        OperatorSetupError: it cannot be written, or another agent uses it.
    """
    try:
        make_folder(folder)
        descriptor = _lock_file(folder / "agent.lock")
    except OSError as error:
        raise OperatorSetupError(
            f"the data folder {folder} cannot be written: {error.strerror}",
            reason="folder_unwritable",
            fix="give another data_dir, or its owner's rights",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OperatorSetupError(
            f"another agent uses the data folder {folder}",
            reason="folder_in_use",
            fix="stop it, or give another data_dir",
        ) from error
    return descriptor


def _lock_file(path: Path) -> int:
    """Open; a device whose disk has turned read-only answers all the same, so that one that is there need not be written.

    Raises:
        OSError: there is none, and none can be made.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def audit_key(config: EdgeConfig) -> str:
    """The secret that chooses the audits; made on the first start, unless the configuration names a file.

    Raises:
        OperatorConfigError: the named file is missing or empty.
    """
    path = Path(config.audit_key_file) if config.audit_key_file else config.folder / AUDIT_KEY
    if not config.audit_key_file and not path.exists():
        write_durably(path, secrets.token_hex(32).encode() + b"\n", mode=0o600)
    return read_secret(path, "secret that chooses the audits")


def bound_sockets(api: ApiSettings) -> list[socket.socket]:
    """The API's addresses, taken but not yet open: who connects is turned away until the agent is ready.

    Raises:
        OperatorSetupError: one of them is occupied or cannot be used.
    """
    bound = [_bound_tcp(api.host, api.port)]
    if api.socket:
        try:
            bound.append(_bound_unix(Path(api.socket)))
        except OperatorSetupError:
            bound[0].close()
            raise
    return bound


def _bound_tcp(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        taken = error.errno == errno.EADDRINUSE
        raise OperatorSetupError(
            f"port {port} on {host} is occupied"
            if taken
            else f"port {port} on {host} cannot be used: {error.strerror}",
            reason="port_occupied" if taken else "port_unusable",
            fix="stop what listens there, or give [api] port another number (0: any free one)",
        ) from error
    return made


def _bound_unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(str(path))
    except OSError as error:
        made.close()
        raise OperatorSetupError(
            f"the socket {path} cannot be used: {error.strerror or error}",
            reason="socket_unusable",
            fix="give [api] socket another path",
        ) from error
    return made


def _remove_stale(path: Path) -> None:
    """A socket that nobody listens on is what a killed agent left; anything else stays.

    Raises:
        OSError: somebody listens there, or it is no socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "it is a file of another kind")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "another program listens there")
        path.unlink()
