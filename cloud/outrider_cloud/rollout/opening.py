"""Makes what runs rollouts, over the broker and the cloud's signed metadata. Wires, and decides nothing."""

from collections.abc import Callable
from pathlib import Path

from outrider_cloud.config import CloudConfig
from outrider_cloud.housekeeping import Chore
from outrider_cloud.intake.replies import Publish
from outrider_cloud.releases import Releases
from outrider_cloud.rollout.automatic import EVERY_S, Automatic
from outrider_cloud.rollout.collector import Collector
from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.forecast import Carriage
from outrider_cloud.rollout.running import Rollouts
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_cloud.trust.service import TEND_EVERY_S, Trust
from outrider_link.envelope import Outgoing
from outrider_wire.codec import encode
from outrider_wire.messages import StopNotice
from outrider_wire.topics import Topics


class BrokerSender:
    """`outrider_cloud.rollout.ports.Sender`: retained messages."""

    def __init__(self, *, releases: Releases, publish: Publish, topics: Topics, connected: Callable[[], bool]) -> None:
        self._releases = releases
        self._publish = publish
        self._topics = topics
        self._connected = connected

    @property
    def connected(self) -> bool:
        """As `Sender`."""
        return self._connected()

    async def offer(self, device: str) -> bool:
        """As `Sender`."""
        return await self._releases.offer(device)

    async def stop(self, envelope: bytes) -> bool:
        """As `Sender`."""
        notice = Outgoing(self._topics.of("stop", ""), encode(StopNotice(envelope=envelope)), retain=True)
        return await self._publish(notice)


def open_rollouts(
    config: CloudConfig,
    *,
    store: Store,
    blobs: BlobStore,
    deltas: Path,
    releases: Releases,
    trust: Trust,
    publish: Publish,
    topics: Topics,
    connected: Callable[[], bool],
) -> tuple[Rollouts, RolloutDesk, Collector, list[Chore]]:
    """Whoever runs rollouts, is asked about them, and removes what none needs; and what is done now and again."""
    sender = BrokerSender(releases=releases, publish=publish, topics=topics, connected=connected)
    running = Rollouts(store=store, signer=trust.control, plans=trust.plans, sender=sender)
    carriage = Carriage(device_bytes_per_s=config.devices.serve_bytes_per_s, fleet_bytes_per_s=config.broker.blob_cap)
    desk = RolloutDesk(store=store, running=running, carriage=carriage)
    chores = [Chore("tend", TEND_EVERY_S, trust.tend)]
    if trust.automatic:
        settings = config.trust.automatic
        automatic = Automatic(store=store, blobs=blobs, trust=trust, running=running, desk=desk, settings=settings)
        chores.append(Chore("automatic", EVERY_S, automatic.turn))
    return running, desk, Collector(store=store, blobs=blobs, deltas=deltas, plans=trust.plans), chores
