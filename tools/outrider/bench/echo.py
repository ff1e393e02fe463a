"""What an escalation is measured against: bytes sent to a peer and back over the same broker, bare or with durable commits.

Two paho-mqtt clients, MQTT 5, QoS 1, each with its own network thread; no code of ours.
"""

import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


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
    """

    def __init__(self, *, host: str, port: int, folder: Path | None = None) -> None:
        self._address = (host, port)
        self._journals = (Journal(folder / "sender.db"), Journal(folder / "peer.db")) if folder else None
        self._back: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._sender = self._client("bench-sender", "bench/back", self._back.put)
        self._peer = self._client("bench-peer", "bench/out", self._answer)

    def __enter__(self) -> "Echo":
        for client in (self._peer, self._sender):
            client.connect(*self._address)
            client.loop_start()
        deadline = time.monotonic() + 10
        while not (self._sender.is_connected() and self._peer.is_connected()) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # both subscriptions are acknowledged by now
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
        self._sender.publish("bench/out", payload, qos=1)
        self._back.get(timeout=10)
        if self._journals:
            self._journals[0].commit("answered")

    def per_second(self, payload: bytes, *, n: int, window: int = 32) -> float:
        """Sustained echoes a second with up to ``window`` under way."""
        started = time.perf_counter()
        for k in range(n + window):
            if k < n:
                self._sender.publish("bench/out", payload, qos=1)
            if k >= window:
                self._back.get(timeout=10)
        return n / (time.perf_counter() - started)

    def _answer(self, data: bytes) -> None:
        if self._journals:
            self._journals[1].commit("claimed", data)
            self._journals[1].commit("answered")
        self._peer.publish("bench/back", data, qos=1)

    def _client(self, name: str, topic: str, on_data: Any) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        client.max_inflight_messages_set(1000)

        def subscribe(*_: object) -> None:
            client.subscribe(topic, qos=1)

        client.on_connect = subscribe
        client.on_message = lambda _client, _userdata, message: on_data(message.payload)
        return client
