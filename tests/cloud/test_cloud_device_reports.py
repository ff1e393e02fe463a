"""Signed reports in the cloud's store: a device's own key alone speaks for it, and nothing is believed twice or out of order."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from outrider_cloud.device_reports import believed
from outrider_cloud.fleet import Fleet
from outrider_cloud.metrics import Metrics
from outrider_cloud.store.schema import devices, identities
from outrider_cloud.store.store import Store
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_wire.errors import PeerMessageError
from outrider_wire.messages import Reported, SlotReport

CAM = "cam-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(url=f"sqlite:///{tmp_path / 'cloud.db'}")
    made.open()
    yield made
    made.close()


@pytest.fixture
def fleet(store: Store) -> Fleet:
    return Fleet(store=store, devices_max=10, metrics=Metrics(), signed=True)


def reporter(folder: Path, device: str = CAM, now_ms: Callable[[], int] = lambda: 1_000) -> Reporter:
    """A device's own, as the agent makes it."""
    key = partial(report_key, folder, None)
    return Reporter(device=device, ledger=LedgerFile(folder / "ledger"), key=key, now_ms=now_ms)


def tells(made: Reporter, running: str) -> Reported:
    slot = SlotReport(task="colours", running=running * 64, version="1", slot="a", state="idle")
    return made.report([slot], metadata={}, held="")


def running(store: Store) -> str:
    slots: dict[str, Any] = store.run(lambda c: c.execute(sa.select(devices.c.slots)).scalar_one())
    return str(slots["colours"]["running"][0])


async def test_the_first_key_is_kept_and_no_other_speaks_for_the_device(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    own = reporter(tmp_path / "own")
    await fleet.on_reported(CAM, tells(own, "a"))
    forged = tells(reporter(tmp_path / "forger", now_ms=lambda: 9_000_000), "f")
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_reported(CAM, forged)
    assert refused.value.reason == "envelope_unsigned"
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_reported(CAM, replace(forged, signed=UNSET, key=UNSET))
    assert refused.value.reason == "report_unsigned"
    assert running(store) == "a"
    await fleet.on_reported(CAM, tells(own, "b"))
    assert running(store) == "b"


async def test_what_is_under_the_signature_counts_and_not_what_is_beside_it(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    own = reporter(tmp_path / "own")
    told, other = tells(own, "a"), tells(reporter(tmp_path / "other"), "f")
    await fleet.on_reported(CAM, replace(told, slots=other.slots, sequence=2**50))
    assert running(store) == "a"
    await fleet.on_reported(CAM, tells(own, "b"))
    assert running(store) == "b"


async def test_an_old_report_is_never_taken_for_new(fleet: Fleet, store: Store, tmp_path: Path) -> None:
    own = reporter(tmp_path / "own")
    first, second = tells(own, "a"), tells(own, "b")
    for told in (first, second, first, second):  # as a broker says them again
        await fleet.on_reported(CAM, told)
    assert running(store) == "b"


async def test_a_report_of_another_device_is_not_believed(fleet: Fleet, tmp_path: Path) -> None:
    told = tells(reporter(tmp_path / "other", device="cam-2"), "f")
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_reported(CAM, replace(told, device=CAM))
    assert refused.value.reason == "report_other_device"


async def test_a_device_whose_ledger_is_lost_goes_on_telling(fleet: Fleet, store: Store, tmp_path: Path) -> None:
    for _ in range(3):
        await fleet.on_reported(CAM, tells(reporter(tmp_path), "a"))
    for copy in (tmp_path / "ledger").iterdir():
        copy.unlink()
    await fleet.on_reported(CAM, tells(reporter(tmp_path, now_ms=lambda: 60_000), "b"))
    assert running(store) == "b"


async def test_a_new_key_is_believed_when_the_devices_certificate_is_for_it(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    await fleet.on_reported(CAM, tells(reporter(tmp_path / "before"), "a"))
    anew = report_key(tmp_path / "anew", None)
    row = {"device": CAM, "state": "accepted", "invitation": "", "group": "", "key_sha256": anew.keyid, "request": ""}
    row |= {"certificate": "c", "serial": "1", "not_after_ms": 1, "asked_ms": 1, "changed_ms": 1, "granted": ""}
    await store.write(lambda c: c.execute(sa.insert(identities).values(row)) and None)
    after = reporter(tmp_path / "anew", now_ms=lambda: 60_000)
    await fleet.on_reported(CAM, tells(after, "b"))
    assert running(store) == "b"
    with pytest.raises(PeerMessageError):
        await fleet.on_reported(CAM, tells(reporter(tmp_path / "before"), "c"))


async def test_a_cloud_that_signs_nothing_takes_reports_as_they_come(store: Store, tmp_path: Path) -> None:
    plain = Fleet(store=store, devices_max=10, metrics=Metrics())
    await plain.on_reported(CAM, tells(reporter(tmp_path / "one"), "a"))
    await plain.on_reported(CAM, tells(reporter(tmp_path / "two"), "b"))
    assert running(store) == "b"


@given(signed=st.binary(max_size=300), key=st.binary(max_size=100))
def test_any_bytes_are_believed_or_refused(signed: bytes, key: bytes) -> None:
    said = Reported(slots=[], signed=signed or b"x", key=key)
    with pytest.raises(PeerMessageError):
        believed(said, device=CAM, kept={}, certified="")
