"""Rollouts on a wire: a cloud with signed metadata, and devices that verify what they are told and obey it. Knows no assertion."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from cloud_service import request, the_task, write_config
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trust_world import CANARY, Clock, Site

from factory import make_bundle
from outrider_cloud.service import CloudService
from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_trust.client import TrustedMetadata
from outrider_trust.facts import Canary, ReleaseFacts, auto_role, release_path
from outrider_wire.codec import decode, encode
from outrider_wire.errors import TrustError
from outrider_wire.fitness import Requires
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.messages import Desired, Presence, Reported, SlotReport, StopNotice
from outrider_wire.rollout import DeviceOrder, PlannedRelease, RolloutPlan, Stop, stage_of
from outrider_wire.topics import Topics

TASK = "colours"
TOPICS = Topics()
FIRST = "f" * 64
"""What devices run before the first rollout."""


def make_site(folder: Path, *, canary: Canary = CANARY) -> Site:
    """The offline keys and a repository, whose online keys lie where a cloud finds them."""
    site = Site(folder, tasks=(TASK,), clock=Clock(time.time()), canary=canary)
    (folder / "keys").mkdir()
    online = {role: getattr(site, role) for role in ("snapshot", "timestamp", "control")}
    for role, signer in {**online, auto_role(TASK): site.autos[TASK]}.items():
        pem = signer._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "keys" / f"{role}.pem").write_bytes(pem)
    return site


def cloud_file(folder: Path, broker: str, site: Site, *, trust: str = "", **more: Any) -> Path:
    """A configuration with ``[trust]``; ``trust``: more of that, and the tables after it."""
    path = write_config(folder, broker, **more)
    text = path.read_text()
    path.write_text(f'{text}[trust]\nrepository = "{site.repository.folder}"\n{trust}')
    return path


def sign_release(
    site: Site, manifest: bytes, counter: int, *, requires: Requires | None = None, task: str = TASK
) -> PlannedRelease:
    """Signs a manifest as a release."""
    digest = hashlib.sha256(manifest).hexdigest()
    facts = ReleaseFacts(task=task, version=f"1.{counter}", counter=counter, requires=requires or Requires())
    path = release_path(task, digest)
    site.publish_role(task, targets={path: site.repository.put_target(path, manifest, msgspec.to_builtins(facts))})
    site.online()
    return PlannedRelease(task=task, release=digest, size=len(manifest), counter=counter)


async def publish(service: CloudService, site: Site, folder: Path, counter: int, **more: Any) -> PlannedRelease:
    """A bundle becomes a release in the cloud, and is signed."""
    bundle = make_bundle(folder / f"bundle-{counter}", the_task(folder), seed=counter, version=f"1.{counter}")
    for file in bundle.iterdir():
        data = file.read_bytes()
        status, said = await request(service, "PUT", f"/v1/blobs/{hashlib.sha256(data).hexdigest()}", data=data)
        assert status == 201, said
    manifest = (bundle / MANIFEST_FILE).read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    status, said = await request(service, "POST", "/v1/releases", body={"manifest": digest})
    assert status == 201, said
    return sign_release(site, manifest, counter, **more)


def plan_now(*releases: PlannedRelease, **more: Any) -> RolloutPlan:
    """A plan that starts now."""
    now_ms = round(time.time() * 1000)
    about: dict[str, Any] = {
        "rollout": "r-1",
        "salt": "a salt of this rollout",
        "start_ms": now_ms - 60_000,
        "expires_ms": now_ms + 86_400_000,
    }
    return RolloutPlan(releases=list(releases), **(about | more))


async def act(service: CloudService, rollout: str, wanted: str, **more: Any) -> tuple[int, Any]:
    """A person's word."""
    return await request(service, "POST", f"/v1/rollouts/{rollout}/act", body={"act": wanted, **more})


class Obedient:
    """``async with Obedient(url, "cam-1", site, folder) as device``: verifies orders and stops as a device does, and obeys at once."""

    def __init__(
        self, url: str, name: str, site: Site, folder: Path, *, takes: Callable[[str], str] = lambda _: "committed"
    ) -> None:
        self.name = name
        self.takes = takes
        self.running = FIRST
        self.orders: list[DeviceOrder] = []
        self._stopped = asyncio.Event()
        self.stops: list[tuple[Stop, float]] = []
        self.refused: list[str] = []
        self.facts: dict[str, str] = {}
        self._site = site
        self._trusted: TrustedMetadata = site.device(folder / f"trusted-{name}")
        self._work: asyncio.Queue[tuple[Desired | StopNotice, float]] = asyncio.Queue()
        self.session = MqttSession(
            url=url,
            client_id=f"device-{name}",
            subscriptions=[f"{TOPICS.root}/{name}/down/#", f"{TOPICS.root}/all/down/#"],
            on_message=self._on_message,
        )

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._trusted.refresh, self._site.source)
        await self.session.__aenter__()
        await self.session.wait_connected(10)
        self._worker = asyncio.create_task(self._run())
        await self.report()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.cancel()
        await self.session.__aexit__(kind, error, trace)

    async def report(self, state: str = "idle", **slot: Any) -> None:
        """Says what it is and what it runs."""
        presence = Presence(
            device=self.name, online=True, boot_id="b", agent="0.1.0", wire=[1], capabilities=self.facts
        )
        await self.session.publish(Outgoing(TOPICS.of("presence", self.name), encode(presence), retain=True))
        said = SlotReport(task=TASK, running=self.running, version="1", slot="a", state=state, **slot)  # type: ignore[arg-type]  # a test's states
        await self.session.publish(
            Outgoing(TOPICS.of("reported", self.name), encode(Reported(slots=[said])), retain=True)
        )

    async def hears_stop(self, within_s: float = 10) -> float:
        """When the newest stop came, by the monotonic clock; waits for the first."""
        async with asyncio.timeout(within_s):
            await self._stopped.wait()
        return self.stops[-1][1]

    async def _on_message(self, incoming: Incoming) -> None:
        message = decode(incoming.payload, incoming.content_type) if incoming.payload else None
        if isinstance(message, Desired | StopNotice):
            self._work.put_nowait((message, time.monotonic()))

    async def _run(self) -> None:
        """One thing after the other: the metadata's folder belongs to one thread."""
        while True:
            message, at_s = await self._work.get()
            try:
                if isinstance(message, StopNotice):
                    self.stops.append((self._trusted.open_stop(message.envelope), at_s))
                    self._stopped.set()
                elif message.order:
                    await self._obey(message.order)
            except TrustError as error:
                self.refused.append(error.reason)

    async def _obey(self, data: bytes) -> None:
        order = self._trusted.open_order(data, device=self.name)
        if self.orders and order.number <= self.orders[-1].number:  # said again at a connection
            return
        await asyncio.to_thread(self._trusted.refresh, self._site.source)
        signed = await asyncio.to_thread(self._trusted.plan, TASK, order.rollout, self._site.source)
        if signed is None or stage_of(signed.plan, self.name, self.facts) is None:
            self.refused.append("not_in_plan")
            return
        self.orders.append(order)
        release = order.releases[0].release
        end = self.takes(release) if order.kind == "update" else "committed"
        await self.report("fetching", offered=release)
        if end == "committed":
            self.running = release
            await self.report()
        elif end == "refused":
            await self.report("refused", offered=release, refused=[release], reason="the self-test failed")
