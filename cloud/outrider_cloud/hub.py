"""What arrives on the broker, by the kind of its topic, to whom it concerns. Decides nothing itself."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.access.roster import Roster
from outrider_cloud.fleet import Fleet
from outrider_cloud.intake.checks import check_manner
from outrider_cloud.intake.intake import Intake
from outrider_cloud.intake.parking import Parking
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.metrics import Metrics
from outrider_cloud.releases import Releases
from outrider_cloud.seldom import Seldom
from outrider_cloud.trust.service import Trust
from outrider_link.envelope import Incoming
from outrider_wire.access import shared_subscriptions
from outrider_wire.codec import decode
from outrider_wire.errors import PeerError, PeerMessageError
from outrider_wire.messages import (
    BlobBlock,
    BlobGone,
    BlobWant,
    DeltaWant,
    Message,
    MetadataWant,
    Presence,
    Reported,
    Telemetry,
)
from outrider_wire.topics import RELEASES, Address, Topics, row

log = logging.getLogger(__name__)
log.addFilter(Seldom())


def subscriptions(topics: Topics, *, worker: str, group: str) -> list[str]:
    """Escalations and release wants are shared between workers; presence and reports every worker hears."""
    return [
        *shared_subscriptions(topics, group),
        topics.of("presence", "+"),
        topics.of("reported", "+"),
        topics.of("telemetry", "+"),
        topics.of("blob-up", "+", worker=worker, transfer="+"),
    ]


class Hub:
    """The session's message handler.

    Nothing in it waits for a publish: a broker may hold back its PUBACKs until we have acknowledged what it delivered.
    """

    def __init__(
        self,
        *,
        name: str,
        topics: Topics,
        intake: Intake,
        parking: Parking,
        fleet: Fleet,
        releases: Releases,
        pulls: Pulls,
        roster: Roster,
        trust: Trust,
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._trust = trust
        self._topics = topics
        self._intake = intake
        self._fleet = fleet
        self._releases = releases
        self._pulls = pulls
        self._parking = parking
        self._roster = roster
        self._metrics = metrics

    def subscriptions(self, group: str) -> list[str]:
        """As the function of that name."""
        return subscriptions(self._topics, worker=self._name, group=group)

    async def on_message(self, incoming: Incoming) -> None:
        """Takes one message; what cannot be taken is parked, and what cannot be stored is only counted: its sender says it again."""
        mark = self._parking.mark
        try:
            try:
                await self.take(incoming)
            except PeerError as error:
                await self._parking.park(self._address(incoming), incoming, error, mark=mark)
        except SQLAlchemyError:
            self._metrics.error("store")
            log.exception("store.failed", extra={"topic": incoming.topic[:256]})

    async def take(self, incoming: Incoming) -> None:
        """The same, without a net.

        Raises:
            PeerError: it cannot be taken.
            SQLAlchemyError: it cannot be stored.
        """
        address = self._topics.parse(incoming.topic)
        if self._roster.refuses(address.device):
            self._metrics.revoked_messages.inc()
        elif address.kind == "escalate":
            await self._intake.on_escalation(address, incoming)
        elif incoming.payload:  # an empty one only clears what the broker retained
            await self._dispatch(address, self.expected(address, incoming))

    def expected(self, address: Address, incoming: Incoming) -> Message:
        """The message, if it is one that the topic carries.

        Raises:
            PeerMessageError: it is not, or was not sent as it must be.
        """
        check_manner(incoming)
        message = decode(incoming.payload, incoming.content_type)
        if not isinstance(message, row(address.kind).messages):
            raise PeerMessageError(f"a {type(message).__name__} has no business on this topic", reason="wrong_message")
        return message

    def _address(self, incoming: Incoming) -> Address | None:
        try:
            return self._topics.parse(incoming.topic)
        except PeerError:
            return None

    async def _dispatch(self, address: Address, message: Message) -> None:
        match message:
            case Presence():
                await self._fleet.on_presence(address.device, message)
                if message.online:
                    self._pulls.connected(address.device)
                    self._releases.offer_soon(address.device)
            case Reported():
                await self._fleet.on_reported(address.device, message)
            case Telemetry():
                await self._fleet.on_telemetry(address.device, message)
            case BlobWant() if address.worker == RELEASES:
                await self._releases.on_want(address.device, message)
            case DeltaWant() if address.worker == RELEASES:
                await self._releases.on_delta_want(address.device, message)
            case MetadataWant() if address.worker == RELEASES:
                self._trust.on_want(address.device, message)
            case BlobBlock() | BlobGone() if address.worker == self._name:
                self._pulls.on_message(address.device, message)
            case _:
                raise PeerMessageError(
                    f"a {type(message).__name__} has no business on this topic", reason="wrong_message"
                )
