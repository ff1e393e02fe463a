"""The cloud's session with its broker, made of what listens to it. Opens nothing itself."""

from collections.abc import Awaitable, Callable, Sequence

from outrider_cloud.config import CloudBrokerSettings
from outrider_cloud.hub import Hub
from outrider_link.session import MqttSession

Unsaid = Sequence[Callable[[], Awaitable[None]]]


def make_session(broker: CloudBrokerSettings, name: str, hub: Hub, unsaid: Unsaid) -> MqttSession:
    """The session; what was ``unsaid``, or what the broker may have lost, is said at each connection."""

    async def connected() -> None:
        for say in unsaid:
            await say()

    return MqttSession(
        url=broker.url,
        client_id=f"outrider-cloud-{name}",
        subscriptions=hub.subscriptions(broker.group),
        on_message=hub.on_message,
        on_connected=connected,
        username=broker.username or None,
        password=broker.password,
        tls=broker.tls,
    )
