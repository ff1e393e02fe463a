"""How devices come in, stay in and are put out: the real cloud over TLS, a real broker, the device's own code."""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cloud_device import make_escalation
from cloud_service import HeldModel, eventually, make_service, the_task, write_config
from secured import TOPICS, Peer, SecuredBroker, SecuredDevice, as_operator, over_tls

from outrider_cloud.access import pki
from outrider_cloud.service import CloudService
from outrider_edge.joining import https, identity
from outrider_edge.joining.join import Joined, join, renew
from outrider_link.envelope import Outgoing, Tls
from outrider_wire.codec import JSON, encode
from outrider_wire.errors import (
    CallerInputError,
    OperatorSetupError,
    OutriderError,
    RuleRefusalError,
    UndecidedError,
    UnreachableError,
)
from outrider_wire.joining import JoinLine, parse_join_line
from outrider_wire.messages import Answer

pytestmark = pytest.mark.broker


async def invited(cloud: CloudService, **wishes: object) -> JoinLine:
    status, said = await as_operator(cloud, "POST", "/v1/invitations", wishes)
    assert status == 201, said
    return parse_join_line(said["line"])


def joining(line: JoinLine, device: str, folder: Path, *, wait_s: float = 0) -> Joined:
    return join(line, device=device, folder=folder, wait_s=wait_s, tell=lambda _: None)


async def let_in(cloud: CloudService, name: str, folder: Path, **wishes: object) -> Joined:
    line = await invited(cloud, **wishes)
    return await asyncio.to_thread(joining, line, name, folder)


async def refusal(work: Callable[[], object]) -> OutriderError:
    with pytest.raises(OutriderError) as caught:
        await asyncio.to_thread(work)
    return caught.value


def tls_of(joined: Joined) -> Tls:
    return Tls(ca_file=joined.ca_file, cert_file=joined.cert_file)


async def state_of(cloud: CloudService, device: str) -> str:
    _, said = await as_operator(cloud, "GET", "/v1/identities")
    return next((row["state"] for row in said["identities"] if row["device"] == device), "")


# --- joining


async def test_a_device_that_joined_escalates_and_is_answered(
    cloud: CloudService, cloud_folder: Path, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-1", tmp_path, group="north")
    assert (joined.device, joined.root, joined.group) == ("cam-1", TOPICS.root, "north")
    assert (tmp_path / "device.pem").stat().st_mode & 0o777 == 0o600
    async with SecuredDevice(joined.broker, "cam-1", tls_of(joined)) as device:
        escalation = make_escalation(the_task(cloud_folder), {"image": b"1", "question": "?"})
        assert (await device.hears(Answer, await device.escalate(escalation))).label == "green"


async def test_an_invitation_is_used_up_and_the_same_device_may_ask_again(cloud: CloudService, tmp_path: Path) -> None:
    line = await invited(cloud, count=2)
    first = await asyncio.to_thread(joining, line, "cam-2", tmp_path / "2")
    before = first.cert_file.read_bytes()
    again = await asyncio.to_thread(joining, line, "cam-2", tmp_path / "2")
    assert again.cert_file.read_bytes() == before, "the reply that was lost is given once more"
    await asyncio.to_thread(joining, line, "cam-3", tmp_path / "3")
    assert (await refusal(partial(joining, line, "cam-4", tmp_path / "4"))).reason == "invitation_used"


async def test_what_is_kept_of_an_invitation_is_not_its_secret(cloud: CloudService, cloud_folder: Path) -> None:
    line = await invited(cloud)
    for file in (cloud_folder / "data").glob("cloud.db*"):
        assert line.secret.encode() not in file.read_bytes()


async def test_a_name_that_is_taken_stays_with_its_key_unless_the_invitation_names_it(
    cloud: CloudService, broker: SecuredBroker, tmp_path: Path
) -> None:
    first = await let_in(cloud, "cam-5", tmp_path / "first")
    line = await invited(cloud, count=5)
    assert (await refusal(partial(joining, line, "cam-5", tmp_path / "thief"))).reason == "name_taken"
    async with Peer(broker.url, "cam-5", tls_of(first)):
        pass
    other = await invited(cloud, device="cam-5")
    assert (await refusal(partial(joining, other, "cam-6", tmp_path / "six"))).reason == "wrong_device"
    second = await asyncio.to_thread(joining, other, "cam-5", tmp_path / "second")
    async with Peer(broker.url, "cam-5", tls_of(second)):
        status, said = await over_tls(
            cloud, "POST", "/v1/devices/cam-5/certificate", {"request": ""}, cert_file=first.cert_file
        )
        assert (status, said["error"]["reason"]) == (403, "device_revoked"), "the old certificate is taken back"


async def test_a_person_may_have_to_accept(cloud: CloudService, broker: SecuredBroker, tmp_path: Path) -> None:
    line = await invited(cloud, ask=True)
    error = await refusal(partial(joining, line, "cam-7", tmp_path))
    assert isinstance(error, UndecidedError)
    assert await state_of(cloud, "cam-7") == "waiting"
    status, _ = await as_operator(cloud, "POST", "/v1/identities/cam-7/accept")
    assert status == 200
    joined = await asyncio.to_thread(joining, line, "cam-7", tmp_path)
    async with Peer(broker.url, "cam-7", tls_of(joined)):
        pass


@pytest.mark.parametrize("name", ["#", "+", "a/b", "", "c" * 65, "outrider-cloud-one", "outrider-control", "all"])
async def test_no_device_joins_under_such_a_name(name: str, cloud: CloudService, tmp_path: Path) -> None:
    line = await invited(cloud)
    assert isinstance(await refusal(partial(joining, line, name, tmp_path)), CallerInputError)
    request = identity.pending_request(tmp_path, name[:64] or "x")
    body = {"invitation": line.invitation, "secret": line.secret, "device": name, "request": request}
    status, said = await over_tls(cloud, "POST", "/v1/join", body)
    assert status == 400, said


async def test_neither_a_wrong_secret_nor_the_name_in_a_request_is_believed(
    cloud: CloudService, tmp_path: Path
) -> None:
    line = await invited(cloud)
    wrong = line._replace(secret="x" * 32)
    error = await refusal(partial(joining, wrong, "cam-8", tmp_path))
    assert (type(error), error.reason) == (RuleRefusalError, "invitation_refused")
    body = {"invitation": line.invitation, "secret": line.secret, "device": "cam-9"}
    body["request"] = identity.pending_request(tmp_path, "cam-8")
    status, said = await over_tls(cloud, "POST", "/v1/join", body)
    assert (status, said["error"]["reason"]) == (400, "invalid_request")


async def test_guessing_is_slowed_down(cloud: CloudService, tmp_path: Path) -> None:
    request = identity.pending_request(tmp_path, "cam-10")
    body = {"invitation": "0" * 16, "secret": "x" * 32, "device": "cam-10", "request": request}
    statuses = [(await over_tls(cloud, "POST", "/v1/join", body))[0] for _ in range(25)]
    assert statuses[:20] == [403] * 20
    assert 429 in statuses[20:]


async def test_a_device_trusts_the_cloud_of_its_line_and_no_other(cloud: CloudService, tmp_path: Path) -> None:
    line = await invited(cloud)
    error = await refusal(partial(joining, line._replace(fingerprint="0" * 64), "cam-11", tmp_path))
    assert error.reason == "wrong_authority"
    assert not (tmp_path / "next.key").exists(), "nothing was made, nothing was sent"
    elsewhere = line._replace(url=line.url.replace("localhost", "127.0.0.2"))
    assert isinstance(
        await refusal(partial(joining, elsewhere, "cam-11", tmp_path)), OperatorSetupError | UnreachableError
    )


# --- renewing


async def test_a_certificate_is_renewed_over_itself_with_a_new_key(
    cloud: CloudService, broker: SecuredBroker, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-12", tmp_path)
    async with Peer(broker.url, "cam-12", tls_of(joined)) as peer:
        before = joined.cert_file.read_bytes()
        again = partial(renew, cloud.url.replace("127.0.0.1", "localhost"), device="cam-12")
        await asyncio.to_thread(again, ca_file=joined.ca_file, cert_file=joined.cert_file)
        assert joined.cert_file.read_bytes() != before
        (tmp_path / "old.pem").write_bytes(before)
        broker.stop()
        broker.start()
        async with asyncio.timeout(10):
            while peer.session.connections < 2:  # noqa: ASYNC110 (nothing announces it)
                await asyncio.sleep(0.02)
        assert peer.session._keeper is not None


async def test_a_device_renews_for_itself_alone(cloud: CloudService, tmp_path: Path) -> None:
    one = await let_in(cloud, "cam-13", tmp_path / "1")
    await let_in(cloud, "cam-14", tmp_path / "2")
    body = {"request": identity.pending_request(tmp_path / "1", "cam-14")}
    for cert_file in (one.cert_file, None):
        status, _ = await over_tls(cloud, "POST", "/v1/devices/cam-14/certificate", body, cert_file=cert_file)
        assert status == 401


# --- putting out


async def test_a_revoked_device_is_put_out_at_once_and_stays_out(
    cloud: CloudService, broker: SecuredBroker, cloud_folder: Path, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-20", tmp_path / "20")
    other = await let_in(cloud, "cam-21", tmp_path / "21")
    async with Peer(broker.url, "cam-20", tls_of(joined)) as peer, Peer(broker.url, "cam-21", tls_of(other)) as stays:
        began = time.monotonic()
        status, said = await as_operator(cloud, "POST", "/v1/identities/cam-20/revoke")
        assert (status, said["broker_told"]) == (200, True)
        async with asyncio.timeout(15):
            while peer.session.connected:  # noqa: ASYNC110 (nothing announces it)
                await asyncio.sleep(0.01)
        print(f"it was out after {(time.monotonic() - began) * 1000:.0f} ms")
        await asyncio.sleep(0.6)
        assert not peer.session.connected
        assert stays.session.connected and stays.session.connections == 1
    with pytest.raises((UnreachableError, OperatorSetupError)):
        async with Peer(broker.url, "cam-20", tls_of(joined), subscriptions=[], within_s=0.6):
            pass
    again = partial(renew, cloud.url.replace("127.0.0.1", "localhost"), device="cam-20")
    error = await refusal(partial(again, ca_file=joined.ca_file, cert_file=joined.cert_file))
    assert error.reason == "device_revoked"
    line = await invited(cloud)
    assert (await refusal(partial(joining, line, "cam-20", tmp_path / "new"))).reason == "device_revoked"
    assert await state_of(cloud, "cam-20") == "revoked"


async def test_nothing_of_a_revoked_device_is_taken_even_where_the_broker_lets_it_through(
    cloud: CloudService, broker: SecuredBroker, cloud_folder: Path, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-22", tmp_path)
    status, _ = await as_operator(cloud, "POST", "/v1/identities/cam-22/revoke")
    assert status == 200
    _, before = await as_operator(cloud, "GET", "/v1/account")
    tls = await broker.device("cam-22")  # a certificate that nobody has revoked, and the role again
    async with SecuredDevice(joined.broker, "cam-22", tls) as device:
        await device.escalate(make_escalation(the_task(cloud_folder), {"image": b"1", "question": "?"}))

        async def dropped() -> bool:
            _, text = await as_operator(cloud, "GET", "/metrics")
            return "outrider_revoked_messages_total 1.0" in text

        await eventually(dropped)
        assert device.said == []
    _, after = await as_operator(cloud, "GET", "/v1/account")
    assert after == before


async def test_a_revocation_that_the_broker_did_not_hear_is_carried_out_when_it_is_back(
    cloud: CloudService, broker: SecuredBroker, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-23", tmp_path)
    broker.stop()
    try:
        status, said = await as_operator(cloud, "POST", "/v1/identities/cam-23/revoke")
        assert (status, said["broker_told"]) == (200, False)
    finally:
        broker.start()

    async def expelled() -> bool:
        rules = (broker.site.folder / "broker/dynamic-security.json").read_text()
        return '"cam-23"' not in rules

    await eventually(expelled)
    with pytest.raises((UnreachableError, OperatorSetupError)):
        async with Peer(broker.url, "cam-23", tls_of(joined), subscriptions=[], within_s=0.6):
            pass


async def test_every_worker_of_the_store_hears_of_a_revocation(
    cloud: CloudService, cloud_folder: Path, tmp_path: Path
) -> None:
    path = write_config(cloud_folder, "mqtt://127.0.0.1:9", worker="two", more="lease_s = 1.0")
    async with make_service(path, HeldModel()) as other:
        await let_in(cloud, "cam-26", tmp_path)
        assert not other._roster.refuses("cam-26")
        await as_operator(cloud, "POST", "/v1/identities/cam-26/revoke")

        async def heard_of_it() -> bool:
            return other._roster.refuses("cam-26")

        await eventually(heard_of_it)


async def test_a_revoked_device_comes_back_by_an_invitation_of_its_own(
    cloud: CloudService, broker: SecuredBroker, tmp_path: Path
) -> None:
    await let_in(cloud, "cam-24", tmp_path / "old")
    await as_operator(cloud, "POST", "/v1/identities/cam-24/revoke")
    joined = await let_in(cloud, "cam-24", tmp_path / "new", device="cam-24")
    async with Peer(broker.url, "cam-24", tls_of(joined)) as peer:
        assert await peer.session.publish(Outgoing(TOPICS.of("presence", "cam-24"), b"", retain=True))


async def test_a_device_that_was_let_in_while_the_broker_was_away_gets_its_certificate_when_it_is_back(
    cloud: CloudService, broker: SecuredBroker, tmp_path: Path
) -> None:
    line = await invited(cloud)
    broker.stop()
    try:
        error = await refusal(partial(joining, line, "cam-25", tmp_path))
        assert isinstance(error, UnreachableError)
    finally:
        broker.start()
    joined = await asyncio.to_thread(joining, line, "cam-25", tmp_path)
    async with Peer(broker.url, "cam-25", tls_of(joined)):
        pass


# --- the API


async def test_a_device_asks_over_https_by_its_certificate_until_it_is_revoked(
    cloud: CloudService, cloud_folder: Path, tmp_path: Path
) -> None:
    joined = await let_in(cloud, "cam-32", tmp_path)
    body = json.loads(encode(make_escalation(the_task(cloud_folder), {"image": b"1", "question": "?"}), JSON))
    ask = partial(over_tls, cloud, "POST", "/v1/devices/cam-32/escalations/colours?wait_ms=10000", body)
    status, said = await ask(cert_file=joined.cert_file)
    assert (status, said["label"]) == (200, "green")
    await as_operator(cloud, "POST", "/v1/identities/cam-32/revoke")
    status, said = await ask(cert_file=joined.cert_file)
    assert (status, said["error"]["reason"]) == (403, "device_revoked")


async def test_every_route_says_whom_it_serves_and_is_closed_to_everyone_else(
    cloud: CloudService, tmp_path: Path
) -> None:
    _, document = await as_operator(cloud, "GET", "/openapi.json")
    joined = await let_in(cloud, "cam-30", tmp_path)
    open_to_all = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = path
            for name, value in (("sha256", "0" * 64), ("digest", "0" * 64), ("task", "colours"), ("device", "cam-31")):
                url = url.replace(f"{{{name}}}", value)
            if not operation["security"]:
                open_to_all.add(path)
                continue
            for cert_file in (None, joined.cert_file):
                status, _ = await over_tls(cloud, method.upper(), url, cert_file=cert_file)
                assert status == 401, (method, path, cert_file)
    assert open_to_all == {"/health/live", "/health/ready", "/v1/join", "/v1/join/authorities"}


async def test_an_authority_slipped_in_under_another_label_is_not_trusted(
    cloud: CloudService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL reads more labels than are hashed: whoever stands between must not add his own authority so."""
    line = await invited(cloud)
    foreign = pki.new_authority("somebody between", now=datetime.now(UTC)).chain.replace(
        "CERTIFICATE", "X509 CERTIFICATE"
    )
    real = https._request

    def between(*arguments: object, **more: object) -> tuple[int, bytes]:
        status, body = real(*arguments, **more)  # type: ignore[arg-type]  # handed on as they come
        return status, body + foreign.encode()

    monkeypatch.setattr(https, "_request", between)
    text = await asyncio.to_thread(https.pinned, line.url, "/v1/join/authorities", line.fingerprint)
    names = [dict(pair for part in one["subject"] for pair in part) for one in https.trusting(text).get_ca_certs()]
    assert names and all(name["commonName"] != "somebody between" for name in names)
