"""A broker in a box: iotcore's rumqttd as a child process on the loopback. For a first run, tests and benches; it has no access rules.

It forgets every session when it stops and cannot keep one device from writing as another, so it is not for a fleet.
"""

import importlib.util
import ipaddress
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from outrider_wire.errors import OperatorSetupError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
_POLL_S = 0.02

_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "outrider"
listen = "{address}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 16777216
max_inflight_count = 200
dynamic_filters = true
"""


class EmbeddedBroker:
    """``with EmbeddedBroker(port=1883) as broker: connect(broker.url)``; start and stop may also be called by hand, again and again.

    Args:
        host: an address to listen on; only the loopback's, unless ``allow_remote``.
        port: 0 for any free one, chosen when it starts and kept for later starts.
        log_file: where its words go; None: a file that is deleted when it stops.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        log_file: Path | None = None,
    ) -> None:
        self.host = "127.0.0.1" if host == "localhost" else host
        self.port = port
        self._allow_remote = allow_remote
        self._log_file = log_file
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"mqtt://{_bracketed(_reachable(self.host))}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the child process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Starts it, and returns once it accepts connections (about 0.2 s).

        Raises:
            OperatorSetupError: iotcore is not installed, the port is taken, the host is not allowed, or it does not come up.
        """
        if self.running:
            return self
        self.stop()  # what is left of one that died by itself
        self._check_host()
        if importlib.util.find_spec("iotcore") is None:
            raise OperatorSetupError(
                "the embedded broker needs the library iotcore",
                reason="iotcore_missing",
                fix="pip install 'outrider[broker]', or point broker.url at a broker of your own",
            )
        self.port = self._free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-broker-")
        folder = Path(self._folder.name)
        config = folder / "rumqttd.toml"
        config.write_text(_CONFIG.format(address=f"{_bracketed(self.host)}:{self.port}"))
        with (self._log_file or folder / "broker.log").open("ab") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "outrider_link.broker_child", str(config)],
                stdin=subprocess.PIPE,  # the child ends when this pipe closes, that is, when we do
                stdout=words,
                stderr=words,
                start_new_session=True,  # Ctrl-C is for us; we stop the child
            )
        self._wait_until_it_listens(self._process)
        log.info("broker.started", extra={"url": self.url})
        return self

    def stop(self) -> None:
        """Stops it and frees the port; all sessions and retained messages are gone. Harmless when it does not run."""
        if (process := self._process) is not None:
            self._process = None
            process.kill()  # rumqttd has nothing to save and no way to stop
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            log.info("broker.stopped", extra={"url": self.url})
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_host(self) -> None:
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise OperatorSetupError(
                f"the broker cannot listen on {self.host!r}", reason="broker_host", fix="give an IP address"
            ) from error
        if not loopback and not self._allow_remote:
            raise OperatorSetupError(
                f"the embedded broker will not listen on {self.host}: it has no access rules",
                reason="broker_host",
                fix="listen on 127.0.0.1, or run a broker that has them, such as mosquitto",
            )

    def _free_port(self) -> int:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may linger on the port
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise OperatorSetupError(
                    f"the broker cannot listen on {self.host}:{self.port}: {error.strerror}",
                    reason="port_occupied",
                    fix="stop what listens there, or choose another port",
                ) from error
            port: int = probe.getsockname()[1]
            return port

    def _wait_until_it_listens(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection((_reachable(self.host), self.port), timeout=1.0).close()
            except OSError:
                time.sleep(_POLL_S)
            else:
                return
        words = self._last_words()
        self.stop()
        raise OperatorSetupError(
            f"the embedded broker does not come up: {words or 'it says nothing'}",
            reason="broker_failed",
            fix="run a broker of your own and point broker.url at it",
        )

    def _last_words(self) -> str:
        file = self._log_file or (Path(self._folder.name) / "broker.log" if self._folder else None)
        lines = file.read_text(errors="replace").strip().splitlines() if file and file.exists() else []
        return lines[-1] if lines else ""


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 1883,
    allow_remote: bool = False,
    log_file: Path | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Runs a broker until SIGTERM or SIGINT; ``on_ready`` is given its URL. To be called from the main thread.

    Raises:
        OperatorSetupError: it cannot start, or it ends by itself.
    """
    stop = threading.Event()
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        with EmbeddedBroker(host=host, port=port, allow_remote=allow_remote, log_file=log_file) as broker:
            if on_ready is not None:
                on_ready(broker.url)
            while not stop.wait(0.2):
                if not broker.running:
                    raise OperatorSetupError(
                        f"the embedded broker on {broker.url} has ended",
                        reason="broker_failed",
                        fix="look into its log, then start it again",
                    )
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _reachable(host: str) -> str:
    """The address to connect to when a listener is bound to every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared with, not bound to


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
