"""What arrives on the broker, by the kind of its topic, to whom it concerns. Decides nothing itself."""

from outrider_cloud.fleet import Fleet
from outrider_cloud.intake.intake import Intake
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.releases import Releases
from outrider_link.envelope import Incoming
from outrider_wire.codec import decode
from outrider_wire.errors import PeerError, PeerMessageError
from outrider_wire.messages import BlobBlock, BlobGone, BlobWant, Message, Presence, Reported, Telemetry
from outrider_wire.topics import RELEASES, Address, Topics, row


class Hub:
    """The session's message handler.

    Nothing in it waits for a publish: a broker may hold back its PUBACKs until we have acknowledged what it delivered.
    """

    def __init__(
        self, *, name: str, topics: Topics, intake: Intake, fleet: Fleet, releases: Releases, pulls: Pulls
    ) -> None:
        self._name = name
        self._topics = topics
        self._intake = intake
        self._fleet = fleet
        self._releases = releases
        self._pulls = pulls

    def subscriptions(self, group: str) -> list[str]:
        """Escalations and release wants are shared between workers; presence and reports every worker hears."""
        wants = self._topics.of("blob-up", "+", worker=RELEASES, transfer="+")
        return [
            self._topics.shared_escalations(group),
            f"$share/{group}-{RELEASES}/{wants}",  # a group of its own: rumqttd knows one filter a group
            self._topics.of("presence", "+"),
            self._topics.of("reported", "+"),
            self._topics.of("telemetry", "+"),
            self._topics.of("blob-up", "+", worker=self._name, transfer="+"),
        ]

    async def on_message(self, incoming: Incoming) -> None:
        """Takes one message; what cannot be taken is parked."""
        address: Address | None = None
        try:
            address = self._topics.parse(incoming.topic)
            if address.kind == "escalate":
                await self._intake.on_escalation(address, incoming)
            elif incoming.payload:  # an empty one only clears what the broker retained
                await self._dispatch(address, _expected(address, incoming))
        except PeerError as error:
            await self._intake.park(address, incoming, error)

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
            case BlobBlock() | BlobGone() if address.worker == self._name:
                self._pulls.on_message(address.device, message)
            case _:
                raise PeerMessageError(
                    f"a {type(message).__name__} has no business on this topic", reason="wrong_message"
                )


def _expected(address: Address, incoming: Incoming) -> Message:
    """The message, if it is one that the topic carries."""
    message = decode(incoming.payload, incoming.content_type)
    if not isinstance(message, row(address.kind).messages):
        raise PeerMessageError(f"a {type(message).__name__} has no business on this topic", reason="wrong_message")
    return message
