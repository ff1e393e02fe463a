"""Orders and stops are obeyed when the control role signed them as what they are, and never otherwise."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from trust_world import NOW_S, TASK, Site, a_plan, an_order

from outrider_trust.client import TrustedMetadata
from outrider_trust.envelope import ORDER_TYPE, STOP_TYPE, Envelope, EnvelopeSignature, pae, seal, unseal
from outrider_trust.facts import CONTROL, CONTROL_PATH
from outrider_trust.keys import PayloadSigner
from outrider_trust.repository import delegate
from outrider_wire.errors import OutriderError, TrustRefusedError
from outrider_wire.rollout import DeviceOrder, PlannedRelease, Stop

PLAN = a_plan(PlannedRelease(task=TASK, release="ab" * 32, size=9, counter=1))
STOP = Stop(number=1, rollouts=["r1"], reason="it burns", issued_ms=1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "repository")


@pytest.fixture
def device(site: Site, tmp_path: Path) -> TrustedMetadata:
    made = site.device(tmp_path / "device")
    made.refresh(site.source)
    return made


def reason(act: Any) -> str:
    try:
        act()
    except OutriderError as error:
        return error.reason
    return ""


def test_pae_is_that_of_the_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_order_that_is_signed_is_obeyed(site: Site, device: TrustedMetadata) -> None:
    order = an_order(PLAN)
    assert device.open_order(site.order(order), device="cam-1") == order
    assert device.open_stop(site.stop(STOP)) == STOP


def test_a_library_for_dsse_opens_it(site: Site) -> None:
    from securesystemslib.dsse import Envelope as Theirs

    data = msgspec.json.decode(site.order(an_order(PLAN)))
    theirs = Theirs.from_dict(data)
    assert theirs.verify([site.control.public_key], 1)


def test_an_order_to_another_device_or_an_old_one_is_refused(site: Site, device: TrustedMetadata) -> None:
    data = site.order(an_order(PLAN))
    assert reason(lambda: device.open_order(data, device="cam-2")) == "order_other_device"
    late = site.order(an_order(PLAN, expires_ms=int(NOW_S * 1000)))
    assert reason(lambda: device.open_order(late, device="cam-1")) == "order_expired"


def test_no_kind_passes_for_another(site: Site, device: TrustedMetadata) -> None:
    order, stop = site.order(an_order(PLAN)), site.stop(STOP)
    assert reason(lambda: device.open_stop(order)) == "envelope_invalid"
    assert reason(lambda: device.open_order(stop, device="cam-1")) == "envelope_invalid"
    renamed = msgspec.structs.replace(msgspec.json.decode(stop, type=Envelope), payload_type=ORDER_TYPE)
    assert reason(lambda: device.open_order(msgspec.json.encode(renamed), device="cam-1")) == "envelope_unsigned"


@pytest.mark.parametrize("who", ["snapshot", "timestamp", "targets"])
def test_no_other_key_signs_an_order(who: str, site: Site, device: TrustedMetadata) -> None:
    data = site.order(an_order(PLAN), signers=[getattr(site, who)])
    assert reason(lambda: device.open_order(data, device="cam-1")) == "envelope_unsigned"
    task = site.order(an_order(PLAN), signers=[site.tasks[TASK]])
    assert reason(lambda: device.open_order(task, device="cam-1")) == "envelope_unsigned"


def test_a_key_that_signs_twice_counts_once(tmp_path: Path) -> None:
    site = Site(tmp_path / "repository")
    second = CryptoSigner.generate_ed25519()
    metadata = site.repository.fresh("targets")
    keys = [site.control.public_key, second.public_key]
    delegate(metadata.signed, CONTROL, [CONTROL_PATH], keys, threshold=2)
    site.repository.sign("targets", metadata, [site.targets])
    site.repository.publish("targets", metadata)
    site.online()
    device = site.device(tmp_path / "device")
    device.refresh(site.source)
    twice = site.stop(STOP, signers=[site.control, site.control])
    assert reason(lambda: device.open_stop(twice)) == "envelope_unsigned"
    assert device.open_stop(site.stop(STOP, signers=[site.control, second])) == STOP


def test_a_stop_is_heeded_without_a_source_and_after_everything_has_expired(site: Site, tmp_path: Path) -> None:
    site.device(tmp_path / "device").refresh(site.source)
    site.clock.at_s += 400 * 86_400
    try:
        assert site.device(tmp_path / "device").open_stop(site.stop(STOP)) == STOP
    finally:
        site.clock.at_s = NOW_S


def test_a_device_that_never_saw_metadata_obeys_nothing(site: Site, tmp_path: Path) -> None:
    fresh = site.device(tmp_path / "device")
    assert reason(lambda: fresh.open_stop(site.stop(STOP))) == "metadata_missing"


def test_a_control_key_that_was_taken_back_is_obeyed_no_more(tmp_path: Path) -> None:
    site, old = Site(tmp_path / "repository"), None
    folder = tmp_path / "device"
    site.device(folder).refresh(site.source)
    older = (folder / "targets.json").read_bytes()
    old, site.control = site.control, CryptoSigner.generate_ed25519()
    metadata = site.repository.fresh("targets")
    delegate(metadata.signed, CONTROL, [CONTROL_PATH], [site.control.public_key])
    site.repository.sign("targets", metadata, [site.targets])
    site.repository.publish("targets", metadata)
    site.online()
    device = site.device(folder)
    device.refresh(site.source)
    assert reason(lambda: device.open_stop(site.stop(STOP, signers=[old]))) == "envelope_unsigned"
    assert device.open_stop(site.stop(STOP)) == STOP
    (folder / "targets.json").write_bytes(older)  # as if the disk had gone back
    assert reason(lambda: site.device(folder).open_stop(site.stop(STOP, signers=[old]))) == "metadata_damaged"


def test_a_threshold_of_none_is_met_by_nobody() -> None:
    signer = PayloadSigner(CryptoSigner.generate_ed25519())
    with pytest.raises(TrustRefusedError):
        unseal(seal(STOP_TYPE, STOP, [signer]), STOP_TYPE, Stop, keys={}, threshold=0)


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
@settings(max_examples=200)
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    with pytest.raises(TrustRefusedError):
        unseal(data, ORDER_TYPE, DeviceOrder, keys={}, threshold=1)


@given(st.binary(max_size=80), st.binary(max_size=80), st.text(max_size=30))
@settings(max_examples=200)
def test_a_payload_that_is_signed_and_is_no_order_is_refused(payload: bytes, sig: bytes, keyid: str) -> None:
    signer = CryptoSigner.generate_ed25519()
    mine = EnvelopeSignature(keyid=signer.public_key.keyid, sig=PayloadSigner(signer).sign(pae(ORDER_TYPE, payload)))
    other = EnvelopeSignature(keyid=keyid, sig=sig)
    data = msgspec.json.encode(Envelope(payload_type=ORDER_TYPE, payload=payload, signatures=[other, mine]))
    keys = {signer.public_key.keyid: lambda *_: True}
    with pytest.raises(TrustRefusedError, match="payload"):
        unseal(data, ORDER_TYPE, DeviceOrder, keys=keys, threshold=1)
