"""Signed metadata from an engineer to a device: over the cloud's API, its online keys, the broker or HTTP, and the device's client."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloud_service import HeldModel, eventually, make_service, ready, request, the_task, write_config
from mosquitto import AnyBroker
from trust_cloud import cloud_config, engineer, key_of

from factory import make_bundle
from outrider.ota import cloudlink, publishing, signed_release, uploading
from outrider.ota.workplace import Workplace
from outrider.releases import CloudApi
from outrider_cloud.service import CloudService
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.uplink.metadata import UplinkMetadata
from outrider_edge.uplink.uplink import BrokerAccess, Uplink
from outrider_link.http import CloudHttp
from outrider_link.session import Outgoing
from outrider_trust.client import TrustedMetadata
from outrider_trust.facts import ReleaseFacts, Requires
from outrider_wire.codec import encode
from outrider_wire.errors import OutriderError, RuleRefusalError, TrustRefusedError
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest
from outrider_wire.messages import StopNotice
from outrider_wire.rollout import DeviceOrder, Group, RolloutPlan, Stop
from outrider_wire.topics import Topics

pytestmark = pytest.mark.broker
TASK = "colours"


class Site:
    """A cloud that runs, and the engineer's working copy."""

    def __init__(self, service: CloudService, place: Workplace, folder: Path) -> None:
        self.service, self.place, self.folder = service, place, folder
        self.api = CloudApi(service.url)
        self.source = cloudlink.CloudSource(self.api.transport)

    def publish(self, version: str = "1") -> str:
        """As `outrider ota publish --key` does; the release's digest."""
        bundle = make_bundle(self.folder / f"bundle-{version}", the_task(self.folder), version=version)
        link = (self.api, self.source)
        wanted = signed_release.prepare(self.place, link, bundle, counter=None, requires=Requires(), automatic=False)
        signed_release.upload(link, bundle, lambda *_: None)
        signed_release.sign(self.place, wanted, [key_of(self.place, TASK)])
        self.place.publish()
        uploading.put_targets(self.api, self.place)
        cloudlink.push(self.place.repository, self.source, self.api.transport)
        signed_release.register(link, wanted)
        return manifest_digest((bundle / MANIFEST_FILE).read_bytes())

    def plan(self, digest: str) -> RolloutPlan:
        """Signs a plan for a release, and brings it to the cloud."""
        cloudlink.pull(self.place.repository, self.source)
        now_ms = int(time.time() * 1000)
        plan = RolloutPlan(
            rollout="r1",
            releases=[publishing.find(self.place, digest).planned],
            groups=[Group(name="all")],
            salt=publishing.new_salt(),
            start_ms=now_ms,
            expires_ms=now_ms + 86_400_000,
        )
        publishing.sign_plan(self.place, plan, [key_of(self.place, TASK)])
        self.place.publish()
        uploading.put_targets(self.api, self.place)
        cloudlink.push(self.place.repository, self.source, self.api.transport)
        return plan


@asynccontextmanager
async def running(broker: AnyBroker, folder: Path) -> AsyncIterator[Site]:
    place = await asyncio.to_thread(engineer, folder)
    async with make_service(cloud_config(folder, broker.url, place), HeldModel()) as service:
        await ready(service)
        yield Site(service, place, folder)


@asynccontextmanager
async def connected(broker: AnyBroker, folder: Path, name: str, http: str = "") -> AsyncIterator[Uplink]:
    outbox = Outbox(folder=folder / name)
    await outbox.start()
    uplink = Uplink(
        device=name,
        access=BrokerAccess(url=broker.url),
        outbox=outbox,
        figures=Metrics(tasks=[TASK]),
        http=CloudHttp(url=http, device=name) if http else None,
    )
    await uplink.start()
    await uplink.wait_connected(10)
    yield uplink
    await uplink.stop()
    await outbox.stop()


@pytest.mark.parametrize("way", ["broker", "http"])
async def test_a_signed_release_and_plan_reach_a_device(way: str, broker: AnyBroker, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as site:
        digest = await asyncio.to_thread(site.publish)
        plan = await asyncio.to_thread(site.plan, digest)
        http = site.service.url if way == "http" else ""
        async with connected(broker, tmp_path, f"cam-{way}", http) as uplink:
            source = UplinkMetadata(uplink.metadata.ask, asyncio.get_running_loop())
            root = (tmp_path / "repository/metadata/1.root.json").read_bytes()
            device = TrustedMetadata(tmp_path / "device", shipped_root=root)
            versions = await asyncio.to_thread(device.refresh, source)
            found = await asyncio.to_thread(device.plan, TASK, "r1", source)
            assert found and found.plan == plan
            assert found.releases[0].digest == digest and versions.roles[TASK] == 3
            control = site.service.trust.control
            assert control is not None
            order = DeviceOrder(
                device=f"cam-{way}",
                number=1,
                rollout="r1",
                stage=0,
                releases=plan.releases,
                issued_ms=plan.start_ms,
                expires_ms=plan.expires_ms,
            )
            assert await asyncio.to_thread(device.open_order, control.sign_order(order), device=f"cam-{way}") == order
            plans = site.service.trust.plans
            assert plans is not None
            assert [name.rollout for name in await asyncio.to_thread(plans.names)] == ["r1"]
            assert await asyncio.to_thread(plans.plan, TASK, "r1") == found


async def test_a_stop_and_a_hint_reach_every_device_that_comes_later_too(broker: AnyBroker, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as site:
        control = site.service.trust.control
        assert control is not None
        said = control.sign_stop(Stop(number=4, issued_ms=1))
        notice = Outgoing(Topics().of("stop", ""), encode(StopNotice(envelope=said)), retain=True)
        await site.service._publish(notice)
        heard: list[Any] = []
        outbox = Outbox(folder=tmp_path / "late")
        await outbox.start()
        uplink = Uplink(
            device="late", access=BrokerAccess(url=broker.url), outbox=outbox, figures=Metrics(tasks=[TASK])
        )
        uplink.on_stop = heard.append
        uplink.on_newer = heard.append
        await uplink.start()

        async def came() -> bool:
            return said in heard and any(isinstance(each, int) for each in heard)

        await eventually(came)
        await uplink.stop()
        await outbox.stop()


async def test_a_file_that_is_too_large_for_a_message_is_pulled_in_blocks(broker: AnyBroker, tmp_path: Path) -> None:
    place = await asyncio.to_thread(engineer, tmp_path)
    metadata = place.repository.fresh(TASK)
    for counter in range(1, 300):
        data = b"%d" % counter
        digest = hashlib.sha256(data).hexdigest()
        facts = ReleaseFacts(task=TASK, version=str(counter), counter=counter)
        path = f"{TASK}/{digest}.json"
        metadata.signed.targets[path] = place.repository.put_target(path, data, msgspec.to_builtins(facts))
    place.repository.propose(TASK, metadata)
    place.sign(TASK, [key_of(place, TASK)])
    place.publish()
    assert place.repository.path(TASK, 2).stat().st_size > 70_000
    async with make_service(cloud_config(tmp_path, broker.url, place), HeldModel()) as service:
        await ready(service)
        async with connected(broker, tmp_path, "cam-large") as uplink:
            source = UplinkMetadata(uplink.metadata.ask, asyncio.get_running_loop())
            root = (tmp_path / "repository/metadata/1.root.json").read_bytes()
            device = TrustedMetadata(tmp_path / "device", shipped_root=root)
            await asyncio.to_thread(device.refresh, source)
            assert await asyncio.to_thread(device.release, TASK, digest, source)


async def test_what_is_not_signed_as_it_must_be_is_not_taken(broker: AnyBroker, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as site:

        def push(change: Any, keys: list[str]) -> str:
            metadata = site.place.repository.fresh(TASK)
            change(metadata.signed)
            for key in keys:
                metadata.sign(site.place.signer(key), append=True)
            try:
                cloudlink._post(site.api.transport, _as_file(metadata, tmp_path))
            except OutriderError as error:
                return error.reason
            return ""

        ours, theirs = key_of(site.place, TASK), key_of(site.place, "targets")
        same, far = (lambda _: None), (lambda signed: setattr(signed, "version", 9))
        assert await asyncio.to_thread(push, same, []) == "metadata_unsigned"
        assert await asyncio.to_thread(push, same, [theirs]) == "metadata_unsigned"
        assert await asyncio.to_thread(push, far, [ours]) == "metadata_rolled_back"
        missing = site.place.repository.put_target(f"{TASK}/{'ab' * 32}.json", b"never uploaded")
        assert (
            await asyncio.to_thread(push, lambda signed: signed.targets.update({missing.path: missing}), [ours])
            == "target_missing"
        )
        before = site.service.trust._online.timestamp
        assert await asyncio.to_thread(push, same, [ours]) == ""
        assert site.service.trust._online.timestamp == before + 1


def _as_file(metadata: Any, folder: Path) -> dict[str, Path]:
    path = folder / "posted.json"
    path.write_bytes(metadata.to_bytes())
    return {TASK: path}


async def test_a_cloud_that_signs_offers_nothing_unsigned(broker: AnyBroker, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as site:
        digest = await asyncio.to_thread(site.publish)
        status, said = await request(site.service, "POST", f"/v1/releases/{digest}/assign", body={"devices": "all"})
        assert (status, said["error"]["reason"]) == (409, "must_be_signed")


async def test_a_cloud_without_a_repository_says_so(broker: AnyBroker, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker.url), HeldModel()) as service:
        await ready(service)
        status, said = await request(service, "GET", "/v1/tuf/metadata%2Ftimestamp.json")
        assert (status, said["error"]["reason"]) == (404, "trust_off")
        assert not await asyncio.to_thread(cloudlink.CloudSource(CloudApi(service.url).transport).signs)
        async with connected(broker, tmp_path, "cam-off") as uplink:
            assert await uplink.metadata.ask("metadata/timestamp.json", 1000) is None


@pytest.mark.parametrize(
    "path", ["metadata%2F..%2Fkeys%2Fcontrol.pem", "keys%2Fcontrol.pem", "proposed%2Froot.json", "%2Fetc%2Fpasswd"]
)
async def test_nothing_but_metadata_and_targets_is_served(path: str, broker: AnyBroker, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as site:
        status, _ = await request(site.service, "GET", f"/v1/tuf/{path}")
        assert status in (404, 409)


async def test_an_old_working_copy_catches_up_before_it_signs(broker: AnyBroker, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as site:
        await asyncio.to_thread(site.publish, "1")
        second = Workplace(tmp_path / "second", site.place.passphrase)
        shutil.copytree(tmp_path / "repository" / "metadata", second.repository.metadata)
        shutil.copytree(site.place.keys, second.keys)
        await asyncio.to_thread(site.publish, "2")
        other = Site(site.service, second, tmp_path)
        assert await asyncio.to_thread(other.publish, "3")
        counters = [each.facts.counter for each in publishing.releases(second, TASK)]
        assert counters == [3, 2, 1]
        with pytest.raises((RuleRefusalError, TrustRefusedError)):
            await asyncio.to_thread(site.place.repository.publish, TASK, second.repository.read(TASK, 2))
