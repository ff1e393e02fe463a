"""A cloud for the tests of the device: speaks the messages over a real broker, stores ids in memory, and misbehaves on demand."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_entries import make_answer

from outrider_link.blobs import BlobHolder, BlobPuller
from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_wire.codec import decode, encode
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.messages import (
    Answer,
    Assignment,
    BlobBlock,
    BlobGone,
    BlobWant,
    DeltaFound,
    DeltaWant,
    Desired,
    Escalation,
    Message,
    Presence,
    Receipt,
    Refusal,
    Reported,
    Telemetry,
)
from outrider_wire.topics import RELEASES, Topics

WORKER = "worker-1"


class FakeCloud:
    """``async with FakeCloud(url) as cloud``. ``reply`` says what each escalation gets; without one: receipt and answer."""

    def __init__(self, url: str) -> None:
        self.topics = Topics()
        self.offers: Counter[str] = Counter()
        self.payloads: dict[str, list[bytes]] = {}
        self.presence: list[Presence] = []
        self.reported: list[Reported] = []
        self.deltas: dict[tuple[str, str], bytes] = {}
        """By the digests of base and target."""
        self.telemetry: list[Telemetry] = []
        self.wanted: Counter[str] = Counter()
        self.offsets: dict[str, list[int]] = {}
        """By digest, where each want of it began."""
        self.reply: Callable[[Escalation], Awaitable[list[Message]]] = self.answer
        self._answers: dict[str, Answer] = {}
        self._releases: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.session = MqttSession(
            url=url,
            client_id="cloud",
            subscriptions=[
                self.topics.shared_escalations(),
                *(self.topics.of(kind, "+") for kind in ("presence", "reported", "telemetry")),
                self.topics.of("blob-up", "+", worker="+", transfer="+"),
            ],
            on_message=self._on_message,
        )
        self._puller = BlobPuller(publish=self.session.publish, timeout_s=1.0)
        self._holder = BlobHolder(publish=self.session.publish, open_blob=self._open)

    async def __aenter__(self) -> Self:
        await self.session.__aenter__()
        await self.session.wait_connected(10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.__aexit__(kind, error, trace)

    async def answer(self, escalation: Escalation) -> list[Message]:
        """A receipt and the stored answer, or a new one."""
        answer = self._answers.setdefault(escalation.id, make_answer(escalation.id))
        return [Receipt(id=escalation.id), answer]

    async def busy(self, escalation: Escalation) -> list[Message]:
        """Not now."""
        return [Refusal(id=escalation.id, reason="busy", retry_after_s=0.2)]

    async def silence(self, escalation: Escalation) -> list[Message]:
        """Nothing at all."""
        return []

    async def receipt_only(self, escalation: Escalation) -> list[Message]:
        """Stored; the answer gets lost."""
        return [Receipt(id=escalation.id)]

    async def say(self, device: str, message: Message) -> None:
        """On the device's answer topic."""
        await self.session.publish(Outgoing(self.topics.of("answer", device), encode(message)))

    async def say_raw(self, topic: str, payload: bytes) -> None:
        """Anything, anywhere."""
        await self.session.publish(Outgoing(topic, payload))

    def publish_release(self, bundle: Path) -> str:
        """Makes a bundle's files available; its digest."""
        files = [path.read_bytes() for path in sorted(bundle.iterdir())]
        self._releases |= {hashlib.sha256(data).hexdigest(): data for data in files}
        return hashlib.sha256((bundle / MANIFEST_FILE).read_bytes()).hexdigest()

    def corrupt(self, sha256: str) -> None:
        """From now on, other bytes of the same length are sent for that digest."""
        data = self._releases[sha256]
        self._releases[sha256] = bytes([data[0] ^ 1]) + data[1:]

    async def desire(self, device: str, task: str, release: str, counter: int) -> None:
        """What the device's slot should hold, retained."""
        wish = Assignment(task=task, release=release, size=len(self._releases[release]), counter=counter)
        topic = self.topics.of("desired", device)
        await self.session.publish(Outgoing(topic, encode(Desired(assignments=[wish])), retain=True))

    def _open(self, sha256: str) -> bytes | None:
        self.wanted[sha256] += 1
        return self._releases.get(sha256)

    async def _on_message(self, message: Incoming) -> None:
        address = self.topics.parse(message.topic)
        match decode(message.payload, message.content_type):
            case Escalation() as escalation:
                self._spawn(self._handle(address.device, escalation))
            case Presence() as presence:
                self.presence.append(presence)
            case Reported() as reported:
                self.reported.append(reported)
            case Telemetry() as telemetry:
                self.telemetry.append(telemetry)
            case BlobWant() as want:
                assert address.worker == RELEASES
                self.offsets.setdefault(want.sha256, []).append(want.offset)
                reply = self.topics.of("blob-down", address.device, transfer=want.transfer)
                self._spawn(self._holder.on_want(want, reply))
            case DeltaWant() as asked:
                self._spawn(self._tell_of_delta(address.device, asked))
            case BlobBlock() | BlobGone() as piece:
                self._puller.on_message(piece)

    async def _tell_of_delta(self, device: str, want: DeltaWant) -> None:
        said: DeltaFound | BlobGone = BlobGone(transfer=want.transfer, sha256=want.sha256, reason="no_base")
        for base in want.bases:
            if (delta := self.deltas.get((base, want.sha256))) is not None:
                digest = hashlib.sha256(delta).hexdigest()
                self._releases[digest] = delta
                said = DeltaFound(transfer=want.transfer, sha256=want.sha256, base=base, delta=digest, size=len(delta))
        await self.session.publish(Outgoing(self.topics.of("blob-down", device, transfer=want.transfer), encode(said)))

    async def _handle(self, device: str, escalation: Escalation) -> None:
        self.offers[escalation.id] += 1
        if escalation.id not in self.payloads:
            self.payloads[escalation.id] = [
                part.inline if part.inline is not None else await self._pull(device, part.sha256, part.size)
                for part in escalation.parts
            ]
        for message in await self.reply(escalation):
            await self.say(device, message)

    async def _pull(self, device: str, sha256: str, size: int) -> bytes:
        return await self._puller.pull(
            sha256=sha256,
            size=size,
            want_topic=lambda transfer: self.topics.of("blob-down", device, transfer=transfer),
            worker=WORKER,
        )

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
