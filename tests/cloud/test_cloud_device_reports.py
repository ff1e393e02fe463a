"""Signed reports in the cloud's store: a device's own key alone speaks for it, and nothing is believed twice or out of order."""

from collections.abc import Callable
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
from outrider_cloud.rollout.reading import seen_of
from outrider_cloud.rollout.records import Count, Seen
from outrider_cloud.store import forget
from outrider_cloud.store.schema import devices, identities
from outrider_cloud.store.store import Store
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_wire.errors import PeerMessageError
from outrider_wire.messages import MonitorFigures, Reported, SlotReport, Telemetry

CAM = "cam-1"


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
    assert refused.value.reason == "report_other_key"
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


def told(n: int, *, uptime_s: float = 1.0, task: str = "colours", alarm: bool = False, device: str = CAM) -> Telemetry:
    """``n`` inputs, half of them sent."""
    watch = MonitorFigures(certificate="c", risk=0.1, statistic=9.0, limit=9.0, audits=9, errors=9, alarm=alarm)
    account = {"edge": n // 2, "cloud": n - n // 2}
    return Telemetry(device=device, boot_id="b", task=task, uptime_s=uptime_s, account=account, monitor=watch)


def seen(store: Store) -> Seen:
    """The device as a rollout's controller sees it."""
    return seen_of(store.run(lambda c: dict(c.execute(sa.select(devices)).mappings().one())))


def shown(store: Store) -> Any:
    return store.run(lambda c: c.execute(sa.select(devices.c.telemetry)).scalar_one())["colours"]


@pytest.mark.parametrize("store", ["file", "server"], indirect=True)
async def test_figures_count_when_the_key_of_the_reports_has_signed_them(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    own = reporter(tmp_path / "own")
    assert own.sign(told(10)) == told(10), "before its first report there is nothing to sign with"
    await fleet.on_reported(CAM, tells(own, "a"))
    await fleet.on_telemetry(CAM, own.sign(told(10, alarm=True)))
    assert seen(store).counts == {"colours": Count(inputs=10, sent=5)} and seen(store).alarms == {"colours": "c"}
    assert shown(store)["signed"] is True and isinstance(shown(store)["account"], dict)
    forger = reporter(tmp_path / "forger")
    tells(forger, "f")
    forged = forger.sign(told(1000, uptime_s=9.0))
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_telemetry(CAM, forged)
    assert refused.value.reason == "envelope_unsigned"
    beside = replace(own.sign(told(12, uptime_s=2.0)), account={"cloud": 2**50}, uptime_s=3.0)
    await fleet.on_telemetry(CAM, beside)
    assert seen(store).counts["colours"] == Count(inputs=12, sent=6), "what stands beside the signature is nothing"


async def test_telemetry_is_neither_said_again_nor_of_another_task_or_device(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    own = reporter(tmp_path / "own")
    await fleet.on_reported(CAM, tells(own, "a"))
    old, new = own.sign(told(10, uptime_s=50.0)), own.sign(told(20, uptime_s=60.0))
    for said in (old, new, old, new):
        await fleet.on_telemetry(CAM, said)
    assert seen(store).counts["colours"].inputs == 20
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_telemetry(CAM, replace(new, task="other"))
    assert refused.value.reason == "task_mismatch"
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_telemetry(CAM, own.sign(replace(told(5, device="cam-2"), device="cam-2")))
    assert refused.value.reason == "wrong_device"
    with pytest.raises(PeerMessageError) as refused:
        await fleet.on_telemetry(CAM, replace(own.sign(told(5, device="cam-2", uptime_s=99.0)), device=CAM))
    assert refused.value.reason == "report_other_device"
    await fleet.on_reported(CAM, tells(own, "b"))  # its agent has started anew: the time it runs begins again
    await fleet.on_telemetry(CAM, own.sign(told(3, uptime_s=1.0)))
    assert seen(store).counts["colours"].inputs == 3
    with pytest.raises(PeerMessageError):
        await fleet.on_telemetry(CAM, replace(new, signed=b"{}"))


async def test_what_an_older_agent_tells_is_shown_and_speaks_neither_for_nor_against(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    await fleet.on_telemetry(CAM, told(10, alarm=True))
    assert (shown(store)["signed"], shown(store)["account"]) == (False, {"edge": 5, "cloud": 5})
    assert seen(store).counts == {} and seen(store).alarms == {}
    own = reporter(tmp_path / "own")
    await fleet.on_reported(CAM, tells(own, "a"))
    await fleet.on_telemetry(CAM, own.sign(told(20)))
    await fleet.on_telemetry(
        CAM, told(4000, alarm=True)
    )  # an agent of before again, or a broker that takes signatures away
    assert (shown(store)["signed"], shown(store)["account"]["edge"]) == (False, 2000)
    assert seen(store).counts["colours"].inputs == 20 and seen(store).alarms == {}


async def test_a_device_set_up_anew_is_shown_with_what_to_do_and_believed_once_that_is_done(
    fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    await fleet.on_reported(CAM, tells(reporter(tmp_path / "before"), "a"))
    anew = reporter(tmp_path / "anew", now_ms=lambda: 9_000)
    for _ in range(2):
        with pytest.raises(PeerMessageError):
            await fleet.on_reported(CAM, tells(anew, "b"))
    [device] = await fleet.devices()
    refused = device["report"]["refused"]
    assert refused["reason"] == "report_other_key" and "outrider cloud forget --device cam-1" in refused["fix"]
    assert running(store) == "a", "until then what was believed stands"
    await fleet.on_reported(CAM, tells(reporter(tmp_path / "before", now_ms=lambda: 8_000), "c"))
    assert "refused" not in (await fleet.devices())[0]["report"], "the old key still speaks: it was somebody else"
    with pytest.raises(PeerMessageError):
        await fleet.on_reported(CAM, tells(anew, "b"))
    store.forgotten = (await store.write(lambda c: forget.erase(c, whom=forget.Whom(device=CAM), at_ms=1))).mark
    await fleet.on_reported(CAM, tells(anew, "d"))
    assert running(store) == "d" and "refused" not in (await fleet.devices())[0]["report"]


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
