"""A real mosquitto for the tests, with the same surface as `EmbeddedBroker`. Knows no messages, and no test.

Looked for in this order: ``OUTRIDER_MOSQUITTO`` (the binary), the system, and what `tools/get_mosquitto.sh` unpacked into the
virtual environment. Where there is none, the test that wants one is skipped, loudly (`absent`).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Self

from absent import skip_without

from outrider.processes import any_port
from outrider_link.broker import EmbeddedBroker

UNPACKED = Path(sys.prefix) / "mosquitto"
"""Where the test set-up unpacks one when the system has none."""
ROOT = Path("/")
_WITHIN_S = 15.0

CONFIG = """\
per_listener_settings false
listener {port} 127.0.0.1
allow_anonymous true
"""
"""What it is started with unless a test says otherwise: the loopback, anybody, MQTT 3.1.1 and 5, mosquitto's own limits."""


@cache
def binary() -> Path | None:
    """The mosquitto of this machine."""
    named = os.environ.get("OUTRIDER_MOSQUITTO")
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", str(UNPACKED / "usr/sbin")])
    found = named or shutil.which("mosquitto", path=places)
    return Path(found).resolve() if found else None


def require() -> Path:
    """The mosquitto of this machine; skips the running test where there is none."""
    if (found := binary()) is None:
        skip_without("mosquitto", "run tools/get_mosquitto.sh, or apt-get install mosquitto")
    return found


def library(name: str) -> Path:
    """A file that comes with it, such as the plugin ``mosquitto_dynamic_security.so``; skips where there is none."""
    lib = require().parents[1] / "lib"
    for found in [*lib.glob(name), *lib.glob(f"*/{name}")]:
        return found
    skip_without(name, "apt-get install mosquitto")


class Mosquitto:
    """``with Mosquitto(tmp_path) as broker: connect(broker.url)``; start, stop and kill may be called again and again.

    Args:
        folder: keeps its configuration, its log and, with ``persistence``, its sessions and retained messages.
        port: 0 for any free one, chosen at the first start and kept for later ones.
        persistence: `stop` saves sessions, queued and retained messages, and the next `start` knows them. `kill` loses
            what changed since the last autosave, which is half an hour in mosquitto unless ``extra`` says otherwise.
        config: replaces `CONFIG`; ``{port}`` and ``{folder}`` are filled in.
        extra: lines added to the configuration, filled in likewise; options of TLS belong to the listener above them.
        scheme: of `url`; ``mqtts`` where the listener speaks TLS.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        persistence: bool = False,
        config: str = CONFIG,
        extra: str = "",
        scheme: str = "mqtt",
    ) -> None:
        self.folder = folder
        self.port = port
        self.host = "127.0.0.1"
        self.persistence = persistence
        self._text = f"{config}\n{extra}\n"
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{self._scheme}://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it has not been started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has said, over all starts."""
        file = self.folder / "mosquitto.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def command(self) -> list[str]:
        """Writes its configuration; the command line that runs it (for a test that starts its processes by itself)."""
        found = require()
        self.port = self.port or any_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "mosquitto.conf"
        text = self._text.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))
        if self.persistence:
            text += f"persistence true\npersistence_location {self.folder}/\n"
        if os.geteuid() == 0:
            text += "user root\n"  # else it becomes one who may not write into the folder
        file.write_text(text)
        return [*_with_libraries(found), str(found), "-c", str(file)]

    def start(self) -> Self:
        """Starts it, and returns once it accepts connections."""
        if self.running:
            return self
        command = self.command()
        with (self.folder / "mosquitto.log").open("ab") as words:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        deadline = time.monotonic() + _WITHIN_S
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"mosquitto does not come up: {self.log[-2000:]}") from None
                time.sleep(0.02)
            else:
                return self

    def stop(self) -> None:
        """SIGTERM: it saves what it is to keep. Harmless when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a power cut looks like to everybody else."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> Self:
        """Ends it and starts it again on the same port."""
        self.kill() if kill else self.stop()
        return self.start()

    def reload(self) -> None:
        """SIGHUP: it reads its configuration, password, access and revocation files anew, with what `command` wrote."""
        os.kill(self.pid, signal.SIGHUP)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


AnyBroker = EmbeddedBroker | Mosquitto
"""What a test may start and stop, and connect to at ``url``."""


def _with_libraries(found: Path) -> list[str]:
    """What a command begins with so that a binary that was unpacked, not installed, finds what came with it."""
    folders = (
        {str(so.parent) for so in (found.parents[2] / "usr/lib").glob("*/*.so*")} if found.parents[2] != ROOT else ()
    )
    return ["env", f"LD_LIBRARY_PATH={os.pathsep.join(sorted(folders))}"] if folders else []
