"""Forgetting a device where devices are let in: the broker lets the cloud clear what it retains, and who is put out stays out."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from secured import TOPICS, Peer, SecuredBroker, as_operator, over_tls

from outrider_cloud.service import CloudService
from outrider_cloud.store import identities
from outrider_edge.joining.join import Joined, join
from outrider_link.envelope import Outgoing, Tls
from outrider_wire.access import cloud_grants
from outrider_wire.codec import encode
from outrider_wire.errors import RuleRefusalError, UndecidedError
from outrider_wire.joining import parse_join_line
from outrider_wire.messages import Presence, Reported
from outrider_wire.topics import Kind

pytestmark = pytest.mark.broker
RETAINED: tuple[Kind, ...] = ("presence", "reported")


async def let_in(cloud: CloudService, device: str, folder: Path, **wishes: object) -> Joined:
    status, said = await as_operator(cloud, "POST", "/v1/invitations", wishes)
    assert status == 201, said
    line = parse_join_line(said["line"])
    return await asyncio.to_thread(join, line, device=device, folder=folder, wait_s=0, tell=lambda _: None)


async def forget(cloud: CloudService, device: str) -> Any:
    status, said = await as_operator(cloud, "POST", "/v1/forget", {"device": device})
    assert status == 200, said
    return said


async def row_of(cloud: CloudService, device: str) -> identities.Identity | None:
    assert cloud._store is not None
    return await cloud._store.read(partial(identities.find, device=device))


async def retained(broker: SecuredBroker, device: str) -> list[str]:
    """Topics on which somebody who may hear what the cloud hears, and has just come, is told something of a device."""
    tls = await broker.device("newcomer", grants=cloud_grants(TOPICS))
    heard = [TOPICS.of(kind, device) for kind in RETAINED]
    async with Peer(broker.url, "newcomer", tls, subscriptions=heard) as newcomer:
        await asyncio.sleep(0.3)
        return sorted(each.topic for each in newcomer.heard if each.payload)


async def test_what_the_broker_retains_of_a_device_is_cleared_and_who_is_let_in_stays_so_until_it_is_revoked(
    cloud: CloudService, broker: SecuredBroker, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-1", tmp_path, group="north")
    tls = Tls(ca_file=joined.ca_file, cert_file=joined.cert_file)
    async with Peer(broker.url, "cam-1", tls) as peer:
        for kind, said in zip(
            RETAINED, (Presence(device="cam-1", online=False, boot_id="b"), Reported(slots=[])), strict=True
        ):
            assert await peer.session.publish(Outgoing(TOPICS.of(kind, "cam-1"), encode(said), retain=True))
    assert await retained(broker, "cam-1") == [TOPICS.of(kind, "cam-1") for kind in RETAINED]
    before = await row_of(cloud, "cam-1")
    said = await forget(cloud, "cam-1")
    assert (said["not_cleared"], said["found"]["access"]["state"]) == ({}, "accepted")
    assert await retained(broker, "cam-1") == []
    assert await row_of(cloud, "cam-1") == before, "its certificate is good: no other key may have its name"

    await as_operator(cloud, "POST", "/v1/identities/cam-1/revoke")
    revoked = await row_of(cloud, "cam-1")
    said = await forget(cloud, "cam-1")
    assert revoked and said["found"]["access"]["state"] == "revoked"
    kept = replace(revoked, group="", request="", certificate="", invitation="")
    assert await row_of(cloud, "cam-1") == kept != revoked
    status, said = await over_tls(
        cloud, "POST", "/v1/devices/cam-1/certificate", {"request": ""}, cert_file=joined.cert_file
    )
    assert (status, said["error"]["reason"]) == (403, "device_revoked"), "its serial is refused as before"
    with pytest.raises(RuleRefusalError) as caught:
        await let_in(cloud, "cam-1", tmp_path / "new")
    assert caught.value.reason == "device_revoked"


async def test_of_a_device_that_waits_and_of_its_invitations_nothing_stays(cloud: CloudService, tmp_path: Path) -> None:
    with pytest.raises(UndecidedError):
        await let_in(cloud, "cam-2", tmp_path, ask=True)
    await as_operator(cloud, "POST", "/v1/invitations", {"device": "cam-2"})
    assert (await forget(cloud, "cam-2"))["found"]["access"] == {"state": "waiting", "invitations": 1}
    assert await row_of(cloud, "cam-2") is None
    assert (await forget(cloud, "cam-2"))["found"]["access"] == {"state": None, "invitations": 0}
