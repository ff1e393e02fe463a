"""What an escalation is measured against: bytes sent to a peer and back over the same broker, bare or with durable commits.

Two paho-mqtt clients, MQTT 5, QoS 1, each with its own network thread; no code of ours.
"""

import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

WAIT_S = 10.0
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
"""As in `outrider_link.pump`: against a broker that leaves Nagle's algorithm on, an echo without it measures two delayed
acknowledgements of TCP, 88 ms, and would flatter whatever is compared with it."""


class Journal:
    """Rows that are on the disk when `commit` returns: SQLite, WAL, ``synchronous=FULL``."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, state TEXT, payload BLOB)")
        self._lock = threading.Lock()

    def commit(self, state: str, payload: bytes = b"") -> None:
        """One durable row."""
        with self._lock:
            self._database.execute("INSERT INTO rows (state, payload) VALUES (?, ?)", (state, payload))

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()


class Echo:
    """A sender and a peer that sends back what it gets. Use as a context manager.

    With ``folder``, both keep a `Journal` and commit where an escalation does: the sender before it publishes and when the
    echo is there, the peer when it has the message and before it answers.

    Args:
        name: of its topics and clients; each echo on one broker needs another.
        host: the broker's.
        port: the broker's.
        folder: where the journals lie; None: nothing is committed.
    """

    def __init__(self, *, name: str, host: str, port: int, folder: Path | None = None) -> None:
        self._address = (host, port)
        self._journals = (Journal(folder / "sender.db"), Journal(folder / "peer.db")) if folder else None
        self._out, self._home = f"bench/{name}/out", f"bench/{name}/back"
        self._back: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ready = threading.Semaphore(0)
        self._sender = self._client(f"{name}-sender", self._home, self._back.put)
        self._peer = self._client(f"{name}-peer", self._out, self._answer)

    def __enter__(self) -> "Echo":
        for client in (self._peer, self._sender):
            client.connect(*self._address)
            client.loop_start()
        for _ in range(2):
            if not self._ready.acquire(timeout=WAIT_S):
                raise TimeoutError("the broker did not grant the echo's subscriptions")
        return self

    def __exit__(self, *_: object) -> None:
        for client in (self._sender, self._peer):
            client.disconnect()
            client.loop_stop()
        for journal in self._journals or ():
            journal.close()

    def round_trip(self, payload: bytes) -> None:
        """There and back again."""
        if self._journals:
            self._journals[0].commit("queued", payload)
        self._sender.publish(self._out, payload, qos=1)
        self._back.get(timeout=WAIT_S)
        if self._journals:
            self._journals[0].commit("answered")

    def per_second(self, payload: bytes, *, n: int, window: int = 32) -> float:
        """Sustained echoes a second with up to ``window`` under way; nothing is committed by the sender."""
        started = time.perf_counter()
        for k in range(n + window):
            if k < n:
                self._sender.publish(self._out, payload, qos=1)
            if k >= window:
                self._back.get(timeout=WAIT_S)
        return n / (time.perf_counter() - started)

    def _answer(self, data: bytes) -> None:
        if self._journals:
            self._journals[1].commit("claimed", data)
            self._journals[1].commit("answered")
        self._peer.publish(self._home, data, qos=1)

    def _client(self, name: str, topic: str, on_data: Callable[[bytes], None]) -> mqtt.Client:
        return raw_client(name=name, topic=topic, on_data=on_data, on_ready=self._ready.release)


def raw_client(*, name: str, topic: str, on_data: Callable[[bytes], None], on_ready: Callable[[], None]) -> mqtt.Client:
    """A paho-mqtt client that listens on one topic once it is connected; not connected yet."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"bench-{name}", protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(1000)

    def connected(*_: object) -> None:
        if isinstance(sock := client.socket(), socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.subscribe(topic, qos=1)

    def arrived(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        acknowledge_soon()
        on_data(bytes(message.payload))

    def acknowledge_soon(*_: object) -> None:
        if _QUICKACK is not None and isinstance(sock := client.socket(), socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    client.on_connect = connected
    client.on_subscribe = lambda *_: on_ready()
    client.on_message = arrived
    client.on_publish = acknowledge_soon
    return client
