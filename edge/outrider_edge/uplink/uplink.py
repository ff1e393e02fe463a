"""The device's one session with the broker: what arrives is judged and handed on, what the device says is published.

Knows the topics and the messages; what becomes of a question is `outrider_edge.uplink.offering`'s, of a release the updater's.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from outrider_edge.outbox.clock import RunClock, run_clock
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.ports import FiguresPort, MaySpare, OnAside, OnFinal, OnPulled, OutboxEntry, UpdatesPort
from outrider_edge.uplink.alone import AloneUplink
from outrider_edge.uplink.delta_asking import DeltaAsking
from outrider_edge.uplink.metadata import MetadataLine
from outrider_edge.uplink.offering import Offering
from outrider_edge.uplink.presence import offline, online, telemetry
from outrider_edge.uplink.putting import PartPutting
from outrider_link.blobs import BlobHolder, BlobPuller
from outrider_link.http import CloudHttp
from outrider_link.session import Incoming, MqttSession, Outgoing, Tls
from outrider_wire.blobs import block_size
from outrider_wire.codec import MSGPACK, decode, encode
from outrider_wire.errors import OutriderError, PeerError, PeerMessageError
from outrider_wire.messages import (
    Answer,
    BlobBlock,
    BlobGone,
    BlobWant,
    DeltaFound,
    Desired,
    DownlinkMessage,
    Escalation,
    Message,
    MetadataFound,
    MetadataNotice,
    Receipt,
    Refusal,
    Reported,
    StopNotice,
)
from outrider_wire.topics import DEFAULT_ROOT, RELEASES, Address, Topics, row

log = logging.getLogger(__name__)

GOODBYE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class BrokerAccess:
    """Where the broker is and how to get in."""

    url: str
    root: str = DEFAULT_ROOT
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    blob_cap: float | None = None
    """Bytes a second that blobs may take in each direction."""


class Uplink:
    """`outrider_edge.ports.UplinkPort` over MQTT. Make it, `listen`, `attach` the updater, `start`; at the end `stop`.

    Args:
        device: the device's name, which is its client id too.
        access: the broker.
        outbox: started before this is, stopped after it.
        figures: where telemetry comes from.
        agent: the agent's version, for presence.
        telemetry_every_s: seconds between telemetry messages.
        receipt_timer_s: a question without a receipt is offered again after this long, at first.
        http: the cloud's HTTP API, where there is one: a faster way for what is large.
    """

    def __init__(
        self,
        *,
        device: str,
        access: BrokerAccess,
        outbox: Outbox,
        figures: FiguresPort,
        agent: str = "",
        telemetry_every_s: float = 30.0,
        receipt_timer_s: float = 5.0,
        ask_again_s: float = 60.0,
        clock: RunClock | None = None,
        http: CloudHttp | None = None,
    ) -> None:
        self._device = device
        self._topics = Topics(access.root)
        self._outbox = outbox
        self._figures = figures
        self._agent = agent
        self._telemetry_every_s = telemetry_every_s
        self._clock = clock or run_clock()
        self._started_at = self._clock.now()
        self._updates: UpdatesPort | None = None
        self._reporting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session = self._session_of(access)
        self.offering = Offering(
            outbox=outbox, line=self, clock=self._clock, receipt_timer_s=receipt_timer_s, ask_again_s=ask_again_s
        )
        self._holder = BlobHolder(
            publish=self._session.publish, open_blob=self.offering.open_blob, bytes_per_s=access.blob_cap
        )
        self._http = http
        self._putting = PartPutting(http=http, open_blob=self.offering.open_blob) if http is not None else None
        self._puller = BlobPuller(
            publish=self._session.publish, bytes_per_s=access.blob_cap, beside=http.fetch if http else None
        )
        self._deltas = DeltaAsking(publish=self._session.publish, topic=self._want_topic)
        self.metadata = MetadataLine(
            publish=self._session.publish, topic=self._want_topic, puller=self._puller, http=http
        )
        """Asks the cloud for signed metadata."""
        self.on_stop: Callable[[bytes], None] = _ignored
        """Hears of the emergency stop: its envelope, verified by nobody yet. Returns at once."""
        self.on_newer: Callable[[int], None] = _ignored
        """Hears that there may be metadata up to that version of the timestamp. Returns at once."""
        self.counts: Counter[str] = Counter()
        """``bad_messages``, and by reason what could not be handled."""
        self._bad: Counter[str] = Counter()

    @property
    def enabled(self) -> bool:
        """A broker is configured."""
        return True

    @property
    def subscriptions(self) -> list[str]:
        """What the device hears."""
        return [
            self._topics.of("answer", self._device),
            self._topics.of("blob-down", self._device, transfer="+"),
            self._topics.of("desired", self._device),
            self._topics.of("stop", ""),
            self._topics.of("metadata", ""),
        ]

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now."""
        return self._session.connected

    @property
    def packet_limit(self) -> int:
        """Bytes of the largest packet that the broker carries."""
        return self._session.packet_limit

    @property
    def bytes_up(self) -> int:
        """Payload bytes that broker and cloud have taken since the start: escalations, blobs, presence and telemetry."""
        return self._session.bytes_published + (self._http.bytes_put if self._http else 0)

    def ignored(self) -> dict[str, int]:
        """What came from the cloud and changed nothing, by reason: bad messages, and answers and blocks that nobody asked for."""
        odd = {reason: self.offering.counts[reason] for reason in ("unknown", "repeated", "unfit", "idle_receipts")}
        return {**odd, "unasked_block": self._puller.unasked, "unasked_metadata": self.metadata.unasked, **self._bad}

    def listen(self, on_final: OnFinal) -> None:
        """As `outrider_edge.ports.UplinkPort.listen`."""
        self.offering.listen(on_final)

    def listen_aside(self, on_aside: OnAside) -> None:
        """As `outrider_edge.ports.UplinkPort.listen_aside`."""
        self.offering.listen_aside(on_aside)

    def spare_when(self, may_spare: MaySpare) -> None:
        """As `outrider_edge.ports.UplinkPort.spare_when`."""
        self.offering.spare_when(may_spare)

    def listen_pulled(self, on_pulled: OnPulled) -> None:
        """As `outrider_edge.ports.UplinkPort.listen_pulled`."""
        self.offering.listen_pulled(on_pulled)

    def attach(self, updates: UpdatesPort) -> None:
        """Names whose slots are reported and who hears of desired releases; called once, before `start`."""
        self._updates = updates

    async def start(self) -> None:
        """Takes up what the outbox holds and begins to connect; returns whether or not the broker is there."""
        await self.offering.start()
        await self._session.__aenter__()
        self._spawn(self._tell_now_and_then())

    async def stop(self) -> None:
        """Says goodbye if it can. Questions stay in the outbox."""
        await self.offering.stop()
        if self.connected:
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._publish_presence(offline(self._device, self._clock.boot_id))
            except (TimeoutError, OutriderError) as error:
                log.info("uplink.goodbye_failed", extra={"what": str(error)})
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.__aexit__(None, None, None)
        if self._http is not None:
            await self._http.close()

    async def wait_connected(self, timeout_s: float) -> None:
        """As `MqttSession.wait_connected`."""
        await self._session.wait_connected(timeout_s)

    async def escalate(self, entry: OutboxEntry) -> None:
        """As `outrider_edge.ports.UplinkPort.escalate`."""
        await self.offering.escalate(entry)

    async def retry(self, id_: str = "") -> int:
        """As `Offering.retry`."""
        return await self.offering.retry(id_)

    async def offer(self, escalation: Escalation) -> bool:
        """As `outrider_edge.uplink.offering.Line.offer`. What it only refers to is put where the worker finds it, if that can be."""
        if self._putting is not None:
            await self._putting.put(escalation)
        return await self._session.publish(
            Outgoing(
                topic=self._topics.of("escalate", self._device, task=escalation.task),
                payload=encode(escalation),
                content_type=MSGPACK,
                correlation=escalation.id.encode(),
                expiry_s=max(1, escalation.keep_for_s),
            )
        )

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        """As `outrider_edge.updates.fetching.ReleaseSource`."""
        return await self._puller.pull(sha256=sha256, size=size, want_topic=self._want_topic, worker=RELEASES)

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """As `outrider_edge.updates.fetching.ReleaseSource`."""
        return await self._puller.pull(sha256=sha256, size=size, want_topic=self._want_topic, worker=RELEASES, to=to)

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        """As `outrider_edge.updates.deltas.DeltaSource`."""
        found = await self._deltas.ask(sha256=sha256, bases=bases)
        if found is None or found.size >= size:
            return None
        await self.pull_file(sha256=found.delta, size=found.size, to=to)
        return found.base

    def _want_topic(self, transfer: str) -> str:
        return self._topics.of("blob-up", self._device, worker=RELEASES, transfer=transfer)

    def report(self) -> None:
        """Publishes what the slots hold, and who is here with which releases; on every connection it is done anyway."""
        if self.connected:
            self._spawn(self._report())

    # What the device says

    def _session_of(self, access: BrokerAccess) -> MqttSession:
        will = offline(self._device, self._clock.boot_id)
        return MqttSession(
            url=access.url,
            client_id=self._device,
            subscriptions=self.subscriptions,
            on_message=self._on_message,
            on_connected=self._on_connected,
            will=Outgoing(self._topics.of("presence", self._device), encode(will), retain=True),
            username=access.username,
            password=access.password,
            tls=access.tls,
        )

    async def _on_connected(self) -> None:
        self._puller.block = block_size(self._session.packet_limit)
        self._puller.lanes.forget("")
        self._holder.reconnected()
        self.offering.connected()
        await self._report()

    async def _report(self) -> None:
        updates = self._updates
        async with self._reporting:  # one after the other: the newest number is the one that the broker keeps
            told = await updates.reported() if updates else Reported(slots=[])
            releases = {slot.task: slot.running for slot in told.slots}
            facts = updates.facts() if updates else {}
            presence = online(self._device, self._clock.boot_id, agent=self._agent, releases=releases, facts=facts)
            await self._publish_presence(presence)
            await self._publish(self._topics.of("reported", self._device), told, retain=True)

    async def _tell_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._telemetry_every_s)
            if not self.connected:
                continue
            uptime_s = self._clock.now() - self._started_at
            for message in telemetry(
                self._device, self._clock.boot_id, figures=self._figures, ledger=self._outbox, uptime_s=uptime_s
            ):
                try:
                    told = await self._updates.signed(message) if self._updates else message
                    await self._publish(self._topics.of("telemetry", self._device), told)
                except OutriderError as error:
                    self.counts[error.reason] += 1

    async def _publish_presence(self, message: Message) -> None:
        await self._publish(self._topics.of("presence", self._device), message, retain=True)

    async def _publish(self, topic: str, message: Message, *, retain: bool = False) -> None:
        await self._session.publish(Outgoing(topic, encode(message), retain=retain))

    # What arrives

    async def _on_message(self, message: Incoming) -> None:
        try:
            address, body = self._judged(message)
        except PeerError as error:
            self.counts["bad_messages"] += 1
            self._bad[error.reason] += 1
            log.warning(
                "uplink.bad_message", extra={"topic": message.topic[:200], "reason": error.reason, "what": str(error)}
            )
            return
        await self._hand_on(address, body)

    def _judged(self, message: Incoming) -> tuple[Address, DownlinkMessage]:
        """Raises `PeerError` for what is not a message of the topic table to this device."""
        address = self._topics.parse(message.topic)
        body = decode(message.payload, message.content_type)
        about = row(address.kind)
        if about.sender != "cloud" or address.device not in (self._device, "") or not isinstance(body, about.messages):
            raise PeerMessageError(f"a {type(body).__name__} does not belong on that topic", reason="wrong_topic")
        return address, body  # type: ignore[return-value]  # the table's cloud rows are the downlink messages

    async def _hand_on(self, address: Address, body: DownlinkMessage) -> None:
        match body:
            case Receipt():
                self.offering.on_receipt(body)
            case Answer():
                await self.offering.on_answer(body)
            case Refusal():
                await self.offering.on_refusal(body)
            case BlobWant():
                self._spawn(self._serve(body))
            case BlobGone() | DeltaFound() if self._deltas.take(body):
                pass
            case DeltaFound():
                self._puller.unasked += 1
            case BlobBlock() | BlobGone():
                self._puller.on_message(body)
            case MetadataFound() | StopNotice() | MetadataNotice() | Desired():
                self._on_releases(body)
            case _ as never:
                assert_never(never)

    def _on_releases(self, body: MetadataFound | StopNotice | MetadataNotice | Desired) -> None:
        """What the cloud says of releases, to whom it concerns."""
        match body:
            case MetadataFound():
                self.metadata.take(body)
            case StopNotice():
                self.on_stop(body.envelope)
            case MetadataNotice():
                self.on_newer(body.timestamp)
            case Desired():
                if self._updates is not None:
                    self._updates.on_desired(body)

    async def _serve(self, want: BlobWant) -> None:
        await self._holder.on_want(
            want, self._topics.of("blob-up", self._device, worker=want.worker, transfer=want.transfer)
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        known = isinstance(error, OutriderError)
        self.counts[error.reason if isinstance(error, OutriderError) else "failures"] += 1
        log.log(
            logging.INFO if known else logging.ERROR,
            "uplink.task_failed",
            extra={"what": str(error)},
            exc_info=None if known else error,
        )


def _ignored(_: object) -> None:
    """Nobody listens for it."""


__all__ = ["AloneUplink", "BrokerAccess", "Uplink"]
