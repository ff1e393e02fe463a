"""Whether this device may really say and hear on the broker what it must: tried once, right after joining."""

from outrider_edge.outbox.clock import run_clock
from outrider_edge.uplink.presence import offline
from outrider_link.envelope import Incoming, Tls
from outrider_link.session import MqttSession, Outgoing
from outrider_wire.codec import encode
from outrider_wire.topics import TABLE, Topics


async def try_broker(url: str, *, root: str, device: str, tls: Tls, within_s: float = 15.0) -> None:
    """Connects as the agent will, subscribes to all it hears, and says that it is not running yet.

    Raises:
        OperatorSetupError: the broker refuses this device, or one of its subscriptions (the sentence names it).
        PeerError: it refuses what the device says (the sentence names the topic).
        UnreachableError: no connection in time.
    """
    topics = Topics(root)
    heard = [topics.of(row.kind, device, task="+", transfer="+") for row in TABLE if row.sender == "cloud"]

    async def ignore(_: Incoming) -> None:
        pass

    async with MqttSession(url=url, client_id=device, subscriptions=heard, on_message=ignore, tls=tls) as session:
        await session.wait_connected(within_s)
        said = encode(offline(device, run_clock().boot_id))
        await session.publish(Outgoing(topics.of("presence", device), said, retain=True))
