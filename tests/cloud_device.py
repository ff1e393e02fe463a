"""A device for the cloud's tests: a real MQTT session that escalates, serves its blobs and remembers what it is told."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from outrider_link.blobs import BlobHolder, BlobPuller
from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_wire.codec import MSGPACK, decode, encode
from outrider_wire.ids import uuid7
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import (
    Answer,
    BlobBlock,
    BlobGone,
    BlobWant,
    DeltaFound,
    Desired,
    Escalation,
    Message,
    Part,
    Presence,
    Receipt,
    Refusal,
)
from outrider_wire.task import Task
from outrider_wire.topics import RELEASES, Topics

T = TypeVar("T", bound=Message)
TOPICS = Topics()
MODEL = hashlib.sha256(b"the small model").hexdigest()


def new_id() -> str:
    """A fresh input id."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def sha256(data: bytes) -> str:
    """Its digest."""
    return hashlib.sha256(data).hexdigest()


def make_escalation(
    task: Task, parts: Mapping[str, bytes | str], *, inline: bool | None = None, **fields: object
) -> Escalation:
    """An escalation of ``parts`` that the small model was unsure of; ``inline`` overrules what their size says."""
    said = []
    for name, value in parts.items():
        declared, data = task.part(name), value.encode() if isinstance(value, str) else value
        here = len(data) <= INLINE_BYTES if inline is None else inline
        said.append(
            Part(
                name=name,
                modality=declared.modality if declared else "text",
                media_type="application/octet-stream",
                size=len(data),
                sha256=sha256(data),
                inline=data if here else None,
            )
        )
    usual: dict[str, object] = {
        "id": new_id(),
        "task": task.name,
        "parts": said,
        "why": "low_confidence",
        "model": MODEL,
        "label": task.labels[0],
        "probabilities": [1 / len(task.labels)] * len(task.labels),
        "answer_within_ms": 5_000,
        "keep_for_s": 600,
    }
    return Escalation(**(usual | fields))  # type: ignore[arg-type]  # a test may say anything


class Device:
    """``async with Device(url, "cam-1") as device``: connected, and listening on its own topics."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.said: list[Message] = []
        """Everything that came down but blobs, in order."""
        self.correlations: dict[str, bytes | None] = {}
        self.codings: list[str] = []
        self.blobs: dict[str, bytes] = {}
        """What it can serve, by digest."""
        self.told_of: dict[str, DeltaFound | BlobGone] = {}
        """What it was told of deltas, by the name of its question, and of blobs that are gone."""
        self.wants_served = 0
        self._arrived = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self.session = MqttSession(
            url=url,
            client_id=f"device-{name}",
            subscriptions=[f"{TOPICS.root}/{name}/down/#"],
            on_message=self._on_message,
        )
        self._holder = BlobHolder(publish=self.session.publish, open_blob=self.blobs.get)
        self.puller = BlobPuller(publish=self.session.publish, timeout_s=1.0)

    async def __aenter__(self) -> Self:
        await self.session.__aenter__()
        await self.session.wait_connected(10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._serving:
            task.cancel()
        await self.session.__aexit__(kind, error, trace)

    async def escalate(self, escalation: Escalation, *, coding: str = MSGPACK, correlation: bytes | None = None) -> str:
        """Offers it; its id."""
        await self.send_raw(encode(escalation, coding), task=escalation.task, coding=coding, correlation=correlation)
        return escalation.id

    async def send_raw(
        self, payload: bytes, *, task: str = "colours", coding: str = MSGPACK, correlation: bytes | None = None
    ) -> None:
        """Any bytes on the escalation topic."""
        topic = TOPICS.of("escalate", self.name, task=task)
        await self.session.publish(Outgoing(topic, payload, content_type=coding, correlation=correlation))

    async def appear(self, **fields: object) -> None:
        """Announces itself."""
        presence = Presence(device=self.name, online=True, boot_id="boot-1", agent="test", wire=[1], **fields)  # type: ignore[arg-type]  # a test may say anything
        await self.session.publish(Outgoing(TOPICS.of("presence", self.name), encode(presence), retain=True))

    def serve(self, data: bytes) -> None:
        """From now on it can serve these bytes."""
        self.blobs[sha256(data)] = data

    async def pull(self, digest: str, size: int) -> bytes:
        """A file of a release."""
        return await self.puller.pull(
            sha256=digest,
            size=size,
            want_topic=lambda transfer: TOPICS.of("blob-up", self.name, worker=RELEASES, transfer=transfer),
            worker=RELEASES,
        )

    def of(self, kind: type[T], input_id: str = "") -> list[T]:
        """What it was told of that kind, about one input or about any."""
        return [m for m in self.said if isinstance(m, kind) and (not input_id or getattr(m, "id", "") == input_id)]

    async def hears(self, kind: type[T], input_id: str = "", *, count: int = 1, within_s: float = 60) -> T:
        """The ``count``-th message of that kind; waits for it."""
        await self.until(lambda: len(self.of(kind, input_id)) >= count, within_s=within_s)
        return self.of(kind, input_id)[count - 1]

    async def until(self, true: Callable[[], bool], *, within_s: float = 60) -> None:
        """Waits for a condition on what was said."""
        async with asyncio.timeout(within_s):
            while not true():
                self._arrived.clear()
                await self._arrived.wait()

    async def _on_message(self, incoming: Incoming) -> None:
        if not incoming.payload:  # it only clears what the broker retained
            return
        message = decode(incoming.payload, incoming.content_type)
        match message:
            case BlobWant():
                self.wants_served += 1
                work = self._holder.on_want(
                    message, TOPICS.of("blob-up", self.name, worker=message.worker, transfer=message.transfer)
                )
                task = asyncio.get_running_loop().create_task(work)
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
                return
            case DeltaFound():
                self.told_of[message.transfer] = message
                return
            case BlobBlock() | BlobGone():
                if isinstance(message, BlobGone):
                    self.told_of[message.transfer] = message
                self.puller.on_message(message)
                return
            case Receipt() | Answer() | Refusal():
                self.correlations[message.id] = incoming.correlation
                self.codings.append(incoming.content_type)
            case Desired():
                pass
        self.said.append(message)
        self._arrived.set()
