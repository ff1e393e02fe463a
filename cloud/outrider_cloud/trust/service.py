"""Signed metadata to devices over the broker, and the chores of the online roles. Decides nothing of what is signed."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from outrider_cloud.background import Background
from outrider_cloud.intake.replies import Publish
from outrider_cloud.trust.automatic import AutomaticRole
from outrider_cloud.trust.control import Control
from outrider_cloud.trust.online import OnlineRoles
from outrider_cloud.trust.plans import SignedPlans
from outrider_link.envelope import Outgoing
from outrider_trust.sources import NotHereError
from outrider_wire.codec import encode
from outrider_wire.errors import OutriderError, PeerError, TrustError, UnreachableError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import MetadataFound, MetadataNotice, MetadataWant
from outrider_wire.topics import Topics

log = logging.getLogger(__name__)

TEND_EVERY_S = 60.0
WANTS_AT_ONCE = 256
_REMEMBERED = 256


class Trust:
    """What is signed, for whoever asks; without ``online`` nothing is, and every device hears so.

    Args:
        online: the repository.
        control: signs orders and stops.
        plans: reads plans back.
        automatic: roles that this cloud signs with by itself, by task.
        publish: says it on the broker.
        topics: where.
        background: runs what nobody awaits.
    """

    def __init__(
        self,
        *,
        publish: Publish,
        topics: Topics,
        background: Background,
        online: OnlineRoles | None = None,
        control: Control | None = None,
        plans: SignedPlans | None = None,
        automatic: Mapping[str, AutomaticRole] | None = None,
    ) -> None:
        self._online = online
        self.control = control
        self.plans = plans
        self.automatic = dict(automatic or {})
        """Roles that this cloud signs with by itself, by task."""
        self._publish = publish
        self._topics = topics
        self._background = background
        self._changing = asyncio.Lock()
        self._large: OrderedDict[str, Path] = OrderedDict()

    @property
    def on(self) -> bool:
        """Releases are signed here."""
        return self._online is not None

    @property
    def root(self) -> str:
        """The newest root, which a device is given when it joins; empty: nothing is signed here."""
        return self._online.root.decode() if self._online else ""

    async def read(self, path: str) -> bytes:
        """A file of the repository.

        Raises:
            NotHereError: there is none.
            TrustRefusedError: ``metadata_path``.
        """
        at = self._online.find(path) if self._online else None
        if at is None:
            raise NotHereError(path)
        return await asyncio.to_thread(at.read_bytes)

    async def take(self, files: dict[str, bytes]) -> int:
        """Publishes signed metadata, and says that there is some; errors as `OnlineRoles.take`."""
        if self._online is None:
            raise NotHereError("metadata")
        async with self._changing:
            version = await asyncio.to_thread(self._online.take, files)
        await self.announce()
        return version

    async def take_own(self, make: Callable[[], dict[str, bytes]]) -> None:
        """Publishes what an automatic role signs here, made when nothing else is being published; errors as `take`, and as ``make``."""
        if self._online is None:
            raise NotHereError("metadata")
        online = self._online

        def take() -> bool:
            files = make()
            return bool(files and online.take(files))

        async with self._changing:
            taken = await asyncio.to_thread(take)
        if taken:
            await self.announce()

    async def tend(self) -> None:
        """Keeps snapshot and timestamp from expiring."""
        if self._online is None:
            return
        async with self._changing:
            signed = await asyncio.to_thread(self._online.tend)
        if signed:
            await self.announce()
        for task, role in self.automatic.items():
            try:
                await self.take_own(role.renewed)
            except OutriderError as error:  # one whose proposal waits keeps no other from being renewed
                log.error("automatic.not_renewed", extra={"task": task, "reason": error.reason, "what": error.what})

    async def announce(self) -> None:
        """Says, retained, that there is metadata. What the broker does not take is said at the next connection."""
        if self._online is not None:
            await self._say(self._topics.of("metadata", ""), MetadataNotice(timestamp=self._online.timestamp))

    def on_want(self, device: str, want: MetadataWant) -> None:
        """Answers a device, beside the caller; too many at once are left out, and asked again."""
        if self._background.running("metadata") < WANTS_AT_ONCE:
            self._background.spawn(self._answer(device, want), "metadata", waited_for=False)

    def blob(self, sha256: str) -> Path | None:
        """A file of metadata that a device was told to pull by its digest."""
        return self._large.get(sha256)

    async def _answer(self, device: str, want: MetadataWant) -> None:
        found = MetadataFound(transfer=want.transfer, path=want.path, sha256="")
        try:
            data = await self.read(want.path)
            digest = hashlib.sha256(data).hexdigest()
            small = len(data) <= INLINE_BYTES
            found = MetadataFound(
                transfer=want.transfer, path=want.path, sha256=digest, size=len(data), data=data if small else b""
            )
            if not small and self._online and (at := self._online.find(want.path)):
                self._large[digest] = at
                if len(self._large) > _REMEMBERED:
                    self._large.popitem(last=False)
        except (NotHereError, TrustError):
            pass  # the empty digest says so
        try:
            await self._publish(Outgoing(self._topics.of("blob-down", device, transfer=want.transfer), encode(found)))
        except (UnreachableError, PeerError) as error:
            log.info("metadata.not_sent", extra={"device": device, "reason": error.reason})

    async def _say(self, topic: str, what: MetadataNotice) -> None:
        try:
            await self._publish(Outgoing(topic, encode(what), retain=True))
        except OutriderError as error:
            log.warning("trust.not_said", extra={"topic": topic, "reason": error.reason})
