"""How many escalations a second the cloud answers, against the bare broker's echo of the same bytes in the same run.

The crowd that asks is one paho-mqtt client with escalations made beforehand, so that the cloud is what is measured, not an
agent. The large model costs nothing; everything that is stored is durable, and every input is another one.
"""

import hashlib
import os
import queue
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from outrider.bench.echo import WAIT_S, Echo, raw_client
from outrider.bench.inputs import carrier, sized_inputs
from outrider.bench.system import HOST
from outrider.processes import Processes, any_port, free_port
from outrider.progress import Tell
from outrider_export.task_text import task_to_toml
from outrider_wire.codec import MSGPACK, decode, encode
from outrider_wire.errors import UndecidedError
from outrider_wire.ids import uuid7
from outrider_wire.messages import Answer, Escalation, Part
from outrider_wire.task import Task
from outrider_wire.topics import Topics

WINDOW = 64
"""Escalations, and echoes, under way at once."""
ROUNDS = 3
_ROOT = "bench/crowd"


class WorkersFigures(Struct, kw_only=True, frozen=True):
    """A second of the cloud's work, of one payload size."""

    payload_bytes: int
    echo_per_s: float
    one_worker_per_s: float
    two_workers_per_s: float
    one_worker_share: float
    """Of the echo's rate."""


def measure_workers(*, task: Task, folder: Path, size: int, n: int, tell: Tell) -> WorkersFigures:
    """Starts a broker and two workers over one store, and asks one, then both. ``folder`` is empty.

    Raises:
        OperatorError: the machine lacks something, or the task has no part for the size.
        UndecidedError: the cloud does not answer.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(logs=folder / "logs"))
        port = any_port()
        processes.start("broker", ["broker", "run", "--port", str(port)])
        processes.wait_port("broker", port)
        (folder / "task.toml").write_text(task_to_toml(task))
        _start_worker(processes, folder, "one", port)
        payloads = _payloads(task, size, n)
        crowd = stack.enter_context(_Crowd(task=task, port=port))
        echo = stack.enter_context(Echo(name="workers", host=HOST, port=port))
        echoes, alone = [], []
        for turn in range(ROUNDS):
            echoes.append(echo.per_second(payloads[0], n=n, window=WINDOW))
            alone.append(crowd.per_second(payloads))
            tell(f"one worker, {size} bytes", (turn + 1) / ROUNDS)
        _start_worker(processes, folder, "two", port)
        both = []
        for turn in range(ROUNDS):
            both.append(crowd.per_second(payloads))
            tell(f"two workers, {size} bytes", (turn + 1) / ROUNDS)
    rate, bare = statistics.median(alone), statistics.median(echoes)
    return WorkersFigures(
        payload_bytes=len(payloads[0]),
        echo_per_s=bare,
        one_worker_per_s=rate,
        two_workers_per_s=statistics.median(both),
        one_worker_share=rate / bare,
    )


def _start_worker(processes: Processes, folder: Path, name: str, broker: int) -> None:
    port = free_port(broker + 1)
    config = folder / f"{name}.toml"
    config.write_text(
        f'data_dir = "cloud"\nworker = "{name}"\n[broker]\nurl = "mqtt://{HOST}:{broker}"\nroot = "{_ROOT}"\n'
        f'[api]\nport = {port}\n[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\nstrategy = "shunt"\n'
    )
    processes.start(name, ["cloud", "serve", "--config", str(config)])
    processes.wait_ready(name, f"http://{HOST}:{port}/health/ready")


def _payloads(task: Task, size: int, n: int) -> list[bytes]:
    """The part that carries the size, of ``n`` inputs."""
    part = carrier(task, size).name
    values = (parts[part] for parts in sized_inputs(task, size, n, seed=size))
    return [value.encode() if isinstance(value, str) else value for value in values]


class _Crowd:
    """Asks as one device. Use as a context manager."""

    def __init__(self, *, task: Task, port: int) -> None:
        self._task = task
        self._port = port
        self._topics = Topics(_ROOT)
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._client = raw_client(
            name="crowd", topic=self._topics.of("answer", "crowd"), on_data=self._arrived, on_ready=self._ready.set
        )

    def __enter__(self) -> "_Crowd":
        self._client.connect(HOST, self._port)
        self._client.loop_start()
        if not self._ready.wait(WAIT_S):
            raise UndecidedError("the broker did not grant the crowd's subscription", reason="not_connected")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def per_second(self, payloads: Sequence[bytes]) -> float:
        """Asks about each payload, as new inputs, with up to `WINDOW` under way; answers a second."""
        messages = [self._message(payload) for payload in payloads]
        topic = self._topics.of("escalate", "crowd", task=self._task.name)
        started = time.perf_counter()
        for k in range(len(messages) + WINDOW):
            if k < len(messages):
                self._client.publish(topic, messages[k][0], qos=1, properties=messages[k][1])
            if k >= WINDOW:
                self._await_one()
        return len(messages) / (time.perf_counter() - started)

    def _await_one(self) -> None:
        try:
            self._answers.get(timeout=WAIT_S)
        except queue.Empty as error:
            raise UndecidedError("the cloud stopped answering", reason="not_answered") from error

    def _message(self, payload: bytes) -> tuple[bytes, Properties]:
        labels = self._task.labels
        input_id = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        carried = carrier(self._task, len(payload)).name
        parts = []
        for declared in self._task.inputs:
            data = payload if declared.name == carried else b"what is it?"
            parts.append(
                Part(
                    name=declared.name,
                    modality=declared.modality,
                    media_type="application/octet-stream",
                    size=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    inline=data,
                )
            )
        escalation = Escalation(
            id=input_id,
            task=self._task.name,
            parts=parts,
            why="low_confidence",
            model="0" * 64,
            label=labels[0],
            probabilities=[1 / len(labels)] * len(labels),
            answer_within_ms=30_000,
            keep_for_s=600,
        )
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.ContentType = MSGPACK
        properties.CorrelationData = input_id.encode()
        properties.MessageExpiryInterval = 600
        return encode(escalation), properties

    def _arrived(self, data: bytes) -> None:
        said = decode(data)
        if isinstance(said, Answer):
            self._answers.put(said.id)
