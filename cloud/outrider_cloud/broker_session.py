"""The cloud's session with its broker, made of what listens to it. Opens nothing itself."""

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.config import CloudBrokerSettings
from outrider_cloud.hub import Hub
from outrider_cloud.trust.service import Trust
from outrider_link.session import MqttSession


def make_session(broker: CloudBrokerSettings, name: str, hub: Hub, deliveries: Deliveries, trust: Trust) -> MqttSession:
    """The session; what was unsaid is said at each connection."""

    async def connected() -> None:
        await deliveries.resend()
        await trust.announce()

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
