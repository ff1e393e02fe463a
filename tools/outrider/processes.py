"""Starts and stops the processes of a whole system, as a user would: one command line each, a log file each.

For the demo, the benchmarks and the simulations. Knows no model and no configuration.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from outrider_wire.errors import OperatorSetupError, UndecidedError

FIRST_PORT, PORTS = 12_000, 20_000
"""Where `any_port` looks."""


class Processes:
    """Children that end with their parent's block, however it ends, and all that they started with them. Use as a context manager.

    Each leads a process group of its own: Ctrl-C reaches the parent alone, which then ends them in its order.

    Args:
        logs: folder for what they print.
        isolated: keeps the user's own ``OUTRIDER_…`` settings from them, and what they leave when killed beside their logs.
    """

    def __init__(self, *, logs: Path, isolated: bool = False) -> None:
        self._logs = logs
        self._isolated = isolated
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._children)):
            self.stop(name)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Runs ``outrider COMMAND…``; what it prints goes to ``NAME.log``."""
        self.run(name, [sys.executable, "-m", "outrider", *command])

    def run(self, name: str, program: Sequence[str]) -> None:
        """Runs any program, as `start`."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                process_group=0,
            )

    def runs(self, name: str) -> bool:
        """Whether it was started and has neither ended nor been stopped."""
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def wait_ready(self, name: str, url: str, *, within_s: float = 30.0, every_s: float = 0.05) -> None:
        """Returns when ``url`` answers 200, which is looked for ``every_s``.

        Raises:
            OperatorSetupError: the process ended, with the last line that it printed.
            UndecidedError: it did not become ready in time.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self._check_alive(name)
            if _answers(url):
                return
            time.sleep(every_s)
        raise UndecidedError(
            f"{name} was not ready within {within_s:.0f} s", reason="not_ready", fix=f"see {self._logs / name}.log"
        )

    def wait_port(self, name: str, port: int, *, within_s: float = 30.0) -> None:
        """Returns when something listens on that loopback port; errors as `wait_ready`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self._check_alive(name)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.05)
        raise UndecidedError(
            f"{name} does not listen on port {port}", reason="not_ready", fix=f"see {self._logs / name}.log"
        )

    def stop(self, name: str, *, within_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL for it and what it started, as far as they do not end with that."""
        child = self._children.pop(name, None)
        if child is None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(within_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.killpg(child.pid, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """SIGKILL: what a power cut looks like to everybody else."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def pid(self, name: str) -> int:
        """The process id of a running child."""
        return self._children[name].pid

    def _environment(self) -> dict[str, str]:
        """One OpenMP thread a process: spinning threads of five processes on two cores cost minutes."""
        mine = dict(os.environ)
        if self._isolated:
            mine = {name: value for name, value in mine.items() if not name.startswith("OUTRIDER_")}
            mine["TMPDIR"] = str(self._logs.absolute())
        return {**mine, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def _check_alive(self, name: str) -> None:
        code = self._children[name].poll()
        if code is not None:
            lines = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
            raise OperatorSetupError(
                f"{name} ended with exit code {code}: {lines[-1] if lines else 'it printed nothing'}",
                reason="process_ended",
                fix=f"see {self._logs / name}.log",
            )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 - a loopback address of our own
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def any_port() -> int:
    """A free port below those that the system gives to outgoing connections. Where in it the search begins is chance: a port whose
    process is dead for a moment, or does not listen yet, looks free to whoever searches beside us."""
    return free_port(FIRST_PORT + secrets.randbelow(PORTS))


def free_port(wanted: int) -> int:
    """``wanted``, or when something listens there the next free port above it."""
    for port in range(wanted, wanted + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OperatorSetupError(
        f"no free port from {wanted} to {wanted + 49}", reason="port_occupied", fix="give another --port-offset"
    )
