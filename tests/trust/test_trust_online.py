"""The cloud's online roles: signed again in time, only with the keys that the root names, and never beyond what they may say."""

from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from trust_world import NOW_S, TASK, Site

from outrider_cloud.trust.control import Control
from outrider_cloud.trust.online import OnlineRoles
from outrider_trust.repository import EXPIRY_DAYS
from outrider_wire.errors import OperatorConfigError, OutriderError, RuleRefusalError
from outrider_wire.rollout import Stop

DAY_S = 86_400


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "repository")


def online(site: Site, **keys: Any) -> OnlineRoles:
    signers = {"snapshot": site.snapshot, "timestamp": site.timestamp} | keys
    return OnlineRoles(
        repository=site.repository, signers=signers, find_blob=lambda _: None, days=EXPIRY_DAYS, clock=site.clock
    )


def test_a_timestamp_is_signed_again_at_half_its_life_so_that_a_weekend_finds_it_good(
    site: Site, tmp_path: Path
) -> None:
    roles = online(site)
    assert not roles.tend()
    for day in range(1, 40):
        site.clock.at_s = NOW_S + day * DAY_S
        signed = roles.tend()
        left_days = (site.repository.read("timestamp").signed.expires.timestamp() - site.clock.at_s) / DAY_S
        assert left_days >= 3.5, "who comes back after a weekend is in time"
        assert signed == (left_days == 7)
    with pytest.raises(OutriderError, match="expired"):  # the task's own role lives 30 days, and only its key renews it
        device = site.device(tmp_path / "device")
        device.refresh(site.source)
        device.release(TASK, "ab" * 32, site.source)


def test_what_was_put_into_the_folder_by_hand_is_covered(site: Site) -> None:
    roles, before = online(site), site.repository.version("timestamp")
    site.publish_role(TASK)
    assert roles.tend() and site.repository.version("timestamp") == before + 1
    assert not roles.tend()


def test_with_a_new_key_in_the_root_it_signs_again_at_once(site: Site) -> None:
    new = CryptoSigner.generate_ed25519()
    metadata = site.repository.fresh("root")
    metadata.signed.revoke_key(site.timestamp.public_key.keyid, "timestamp")
    metadata.signed.add_key(new.public_key, "timestamp")
    site.repository.sign("root", metadata, site.roots)
    site.repository.publish("root", metadata)
    with pytest.raises(OperatorConfigError, match="timestamp"):
        online(site).check()
    roles = online(site, timestamp=new)
    roles.check()
    assert roles.tend()


def test_it_takes_no_snapshot_from_anybody(site: Site) -> None:
    for role in ("snapshot", "timestamp"):
        with pytest.raises(OutriderError):
            online(site).take({role: site.repository.read(role).to_bytes()})


def test_all_files_are_taken_or_none(site: Site) -> None:
    good = site.repository.fresh(TASK)
    site.repository.sign(TASK, good, [site.tasks[TASK]])
    before = site.repository.version(TASK)
    with pytest.raises(OutriderError):
        online(site).take({TASK: good.to_bytes(), "targets": b"{}"})
    unsigned = site.repository.fresh("targets")
    with pytest.raises(OutriderError):
        online(site).take({TASK: good.to_bytes(), "targets": unsigned.to_bytes()})
    assert site.repository.version(TASK) == before
    online(site).take({TASK: good.to_bytes()})
    assert site.repository.version(TASK) == before + 1


def test_a_control_key_that_no_device_would_obey_signs_nothing(site: Site) -> None:
    stop = Stop(number=1, issued_ms=1)
    assert Control(repository=site.repository, signer=site.control).sign_stop(stop)
    with pytest.raises(RuleRefusalError, match="control"):
        Control(repository=site.repository, signer=site.timestamp).sign_stop(stop)
