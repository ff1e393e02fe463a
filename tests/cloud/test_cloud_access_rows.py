"""Invitations, identities, certificates, and whose releases and deltas are whose: the same rows on either kind of store."""

from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from store_rows import do

from outrider_cloud.access.rules import Asked, Invitation, secret_digest
from outrider_cloud.store import identities, release_rows
from outrider_cloud.store.schema import devices
from outrider_cloud.store.store import Store
from outrider_wire.errors import CallerUnknownError, RuleRefusalError

HOUR_MS = 3_600_000
BOTH = pytest.mark.parametrize("store", ["file", "server"], indirect=True)


def invited(store: Store, *, device: str = "", uses: int = 1, ask: bool = False) -> Invitation:
    made = Invitation(
        id="i", secret_sha256=secret_digest("s"), device=device, ask=ask, uses_left=uses, expires_ms=HOUR_MS
    )
    do(store, identities.invite, invitation=made)
    return made


def asks(device: str, key: str = "k") -> Asked:
    return Asked(device=device, invitation="i", secret_sha256=secret_digest("s"), key_sha256=key, request="r")


def signed(serial: str, *, renewed: bool = False, key: str = "k") -> identities.Signed:
    about: dict[str, Any] = {"certificate": "c", "not_after_ms": 9 * HOUR_MS, "key_sha256": key}
    return identities.Signed(serial=serial, renewed=renewed, **about)


@BOTH
def test_a_device_is_let_in_renews_and_is_put_out(store: Store) -> None:
    invited(store, uses=2, ask=True)
    assert do(store, identities.ask, asked=asks("cam"), now_ms=1).state == "waiting"
    assert do(store, identities.ask, asked=asks("cam"), now_ms=2).state == "waiting", "asking again takes no use"
    with pytest.raises(RuleRefusalError):
        do(store, identities.ask, asked=asks("cam", key="another"), now_ms=3)
    assert do(store, identities.accept, device="cam", now_ms=4).state == "accepted"
    assert do(store, identities.sign, device="cam", signed=signed("1"), now_ms=5).serial == "1"
    assert do(store, identities.sign, device="cam", signed=signed("2", renewed=True, key="k2"), now_ms=6).serial == "2"
    unsettled = store.run(partial(identities.unsettled, wanted="w"))
    assert [each.device for each in unsettled] == ["cam"]
    do(store, identities.note_granted, device="cam", granted="w")
    assert store.run(partial(identities.unsettled, wanted="w")) == []
    row = {
        "device": "cam", "online": True, "boot_id": "", "agent": "", "wire": [], "capabilities": {}, "slots": {},
        "telemetry": {}, "first_seen_ms": 1, "seen_ms": 1,
    }  # fmt: skip
    store.submit(lambda c: c.execute(sa.insert(devices).values(row))).result(10)
    assert store.run(identities.view)[0]["online"] is True
    do(store, identities.revoke, device="cam", now_ms=7)
    assert store.run(identities.view)[0]["online"] is False
    names, serials = store.run(partial(identities.refused, now_ms=8))
    assert names == ["cam"] and sorted(serials) == ["1", "2"]
    with pytest.raises(RuleRefusalError):
        do(store, identities.sign, device="cam", signed=signed("3"), now_ms=9)
    do(store, identities.forget, device="cam")
    left = store.run(partial(identities.find, device="cam"))
    assert left is not None and (left.state, left.certificate, left.request) == ("revoked", "", "")
    with pytest.raises(CallerUnknownError):
        do(store, identities.accept, device="cam-9", now_ms=9)


@BOTH
def test_of_many_that_ask_at_once_an_invitation_lets_in_as_many_as_it_says(store: Store) -> None:
    invited(store, uses=3)
    futures = [store.submit(partial(identities.ask, asked=asks(f"cam-{n}", key=str(n)), now_ms=1)) for n in range(9)]
    came = [future.exception(30) is None for future in futures]
    assert sum(came) == 3 and store.run(identities.view)[0]["state"] == "accepted"


@BOTH
def test_a_delta_is_for_whom_the_target_is_assigned_to_from_a_file_of_the_same_task(store: Store) -> None:
    for digest, task, file in (("a" * 64, "t", "1" * 64), ("b" * 64, "t", "2" * 64), ("c" * 64, "other", "3" * 64)):
        row = {"digest": digest, "task": task, "version": "1", "size": 1, "parent": None, "certificate": ""}
        do(store, release_rows.add, row=row | {"created_ms": 1}, files={file: 1, digest: 1})
        do(store, release_rows.add, row=row | {"created_ms": 1}, files={file: 1, digest: 1})
    for device in ("cam", "idle"):
        row = {
            "device": device, "online": True, "boot_id": "", "agent": "", "wire": [], "capabilities": {}, "slots": {},
            "telemetry": {}, "first_seen_ms": 1, "seen_ms": 1,
        }  # fmt: skip
        store.submit(lambda c, row=row: c.execute(sa.insert(devices).values(row))).result(10)
    counters = [do(store, release_rows.assign, digest="b" * 64, to=["cam"], stamp_ms=1) for _ in range(2)]
    assert counters == [{"cam": 1}, {"cam": 2}]

    def may(device: str, base: str, target: str) -> bool:
        return store.run(partial(release_rows.may_have_delta, device=device, base=base, target=target))

    assert may("cam", "1" * 64, "2" * 64) and may("cam", "1" * 16, "2" * 16), "by its digest, or how that begins"
    assert not may("cam", "2" * 64, "1" * 64), "the target is not assigned"
    assert not may("cam", "3" * 64, "2" * 64), "a base of another task"
    assert not may("idle", "1" * 64, "2" * 64)
    assert [row["devices"] for row in store.run(release_rows.listed) if row["digest"] == "b" * 64] == [1]
    assert store.run(partial(release_rows.is_assigned, device="cam", sha256="2" * 64))
    assert [each.counter for each in store.run(partial(release_rows.assigned_to, device="cam"))] == [2]
