"""Moves bytes between one MQTT client and its socket on the asyncio loop, as the client's external loop. Knows no packets."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from paho.mqtt.client import Client

log = logging.getLogger(__name__)

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
"""Linux: acknowledge at once what was read. A broker that leaves Nagle's algorithm on (rumqttd) otherwise holds the message
behind a PUBACK until our delayed acknowledgement: an echo of 1 KB took 44 ms, with it 0.9 ms. It must be set after each read."""
_MISC_EVERY_S = 1.0


class Pump:
    """Made before the client connects (in a thread), so that nothing is written there; `attach` starts it.

    ``on_closed`` is called, with a reason, when the socket is gone.
    """

    def __init__(self, *, client: Client, on_closed: Callable[[str], None]) -> None:
        self._client = client
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = None
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        client.on_socket_register_write = self._on_want_write
        client.on_socket_unregister_write = self._on_want_no_write
        client.on_socket_close = self._on_socket_close

    @property
    def attached(self) -> bool:
        """Whether it moves bytes."""
        return self._descriptor is not None

    def attach(self) -> bool:
        """Takes over the socket of the client, which has connected; False when it is closed already."""
        sock = self._client.socket()
        if sock is None:
            return False
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._descriptor = sock.fileno()
        self._loop.add_reader(self._descriptor, self._readable)
        self._timer = self._loop.call_later(_MISC_EVERY_S, self._tick)
        self.flush()
        return True

    def flush(self) -> None:
        """Writes what is queued; what the socket does not take follows when it does."""
        if self._descriptor is None:
            return
        self._step(self._client.loop_write)
        if self._descriptor is not None and self._client.want_write():
            self._loop.add_writer(self._descriptor, self._step, self._client.loop_write)

    def hold(self) -> None:
        """Reads nothing for a while: whoever sends is slowed down by TCP."""
        self._held = True
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        """Reads again."""
        if self._held and self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._readable)
            self._loop.call_soon(self._readable)  # what TLS has decrypted already does not wake a selector
        self._held = False

    def detach(self) -> None:
        """Lets go of the socket, without closing it."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._descriptor = None
        if self._timer is not None:
            self._timer.cancel()

    def _readable(self) -> None:
        if self._held:
            return
        self._step(self._read)
        sock = self._client.socket()
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            self._loop.call_soon(self._readable)  # bytes that TLS has decrypted already do not wake a selector

    def _read(self) -> None:
        self._client.loop_read()
        sock = self._client.socket()
        if _QUICKACK is not None and isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_MISC_EVERY_S, self._tick)
        self._step(self._client.loop_misc)

    def _step(self, step: Callable[[], object]) -> None:
        try:
            step()
        except (
            Exception
        ):  # hostile bytes raise all sorts of errors in the client library: they cost only this connection
            self.detach()
            self._on_closed("the broker sent what cannot be read")
            with suppress(Exception):  # there may be no memory for a line either
                log.exception("connection.broken")

    def _on_want_write(self, _client: Client, _data: Any, _sock: Any) -> None:
        if self._descriptor is not None:  # else still in the connecting thread: `attach` writes
            self._loop.call_soon(self.flush)  # one write for all that this turn of the loop publishes

    def _on_want_no_write(self, _client: Client, _data: Any, _sock: Any) -> None:
        if self._descriptor is not None:
            self._loop.remove_writer(self._descriptor)

    def _on_socket_close(self, _client: Client, _data: Any, _sock: Any) -> None:
        if self._descriptor is not None:
            self.detach()
            self._loop.call_soon(self._on_closed, "the connection was closed")  # after a better reason, if there is one
