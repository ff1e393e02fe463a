"""What a service tells the manager that started it: ready, alive, stopping. Knows systemd's protocol and none of its libraries.

Source: sd_notify(3) and sd_watchdog_enabled(3). Datagrams to the socket that ``NOTIFY_SOCKET`` names; without one, nothing is said.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping

log = logging.getLogger(__name__)

_BEATS = 3
"""A beat is sent this often within the time that the manager waits for one: one that is late does no harm."""


class ServiceNotice:
    """The manager's ear.

    Args:
        address: of its socket: a path, or ``@name`` in Linux's abstract space; '' for none.
        watchdog_s: how long it waits for a sign of life; 0: it does not ask for one.
    """

    def __init__(self, *, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else 0.0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], *, pid: int | None = None) -> "ServiceNotice":
        """As the manager asks; a watchdog that is another process's is not ours."""
        ours = environment.get("WATCHDOG_PID") in (None, str(os.getpid() if pid is None else pid))
        asked = environment.get("WATCHDOG_USEC", "")
        microseconds = int(asked) if ours and asked.isascii() and asked.isdigit() and len(asked) < 16 else 0
        address = environment.get("NOTIFY_SOCKET", "")
        return cls(address=address if address[:1] in ("/", "@") else "", watchdog_s=microseconds / 1e6)

    def say(self, *lines: str) -> None:
        """Tells it, as in ``say("READY=1", "STATUS=…")``. A manager that cannot be reached is no reason to end."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.connect(self._address)
                out.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("service.not_told", extra={"said": lines[0], "what": str(error)})

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Signs of life for as long as it lasts, where they are asked for: they come from the event loop, and stop when that hangs."""
        beat = asyncio.create_task(self._beat()) if self.watchdog_s else None
        try:
            yield
        finally:
            if beat is not None:
                beat.cancel()

    async def _beat(self) -> None:
        while True:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / _BEATS)
