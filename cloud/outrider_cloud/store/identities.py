"""Invitations, identities and certificates as rows. Functions of a connection; `outrider_cloud.access.rules` decides."""

from typing import Any

import sqlalchemy as sa
from msgspec import Struct, structs

from outrider_cloud.access.rules import Asked, Identity, Invitation, State, judge
from outrider_cloud.store.portable import insert
from outrider_cloud.store.schema import certificates, devices, identities, invitations
from outrider_wire.errors import CallerUnknownError, RuleRefusalError


def invite(connection: sa.Connection, invitation: Invitation) -> None:
    """Stores an invitation, and forgets those that ran out a month before."""
    before = invitation.created_ms - 30 * 86_400_000
    connection.execute(sa.delete(invitations).where(invitations.c.expires_ms < before))
    connection.execute(sa.insert(invitations).values(structs.asdict(invitation)))


def ask(connection: sa.Connection, asked: Asked, *, now_ms: int) -> Identity:
    """Judges a device that asks, and takes one use of its invitation when it is new.

    Raises:
        RuleRefusalError: it may not join; nothing has changed.
    """
    invitation = _invitation(connection, asked.invitation)
    known = find(connection, asked.device)
    verdict = judge(asked, invitation, known, now_ms=now_ms)
    if verdict is not known and invitation is not None:
        left = invitation.uses_left - 1
        connection.execute(sa.update(invitations).where(invitations.c.id == invitation.id).values(uses_left=left))
        _put(connection, verdict)
    return verdict


def accept(connection: sa.Connection, device: str, *, now_ms: int) -> Identity:
    """A person lets a waiting device in; one that is in stays.

    Raises:
        CallerUnknownError: it never asked.
        RuleRefusalError: it was revoked.
    """
    known = _known(connection, device)
    if known.state == "revoked":
        raise RuleRefusalError(
            f"{device!r} has been revoked", reason="device_revoked", fix=f"outrider cloud invite --device {device}"
        )
    if known.state == "waiting":
        known = structs.replace(known, state="accepted", changed_ms=now_ms)
        _put(connection, known)
    return known


class Signed(Struct, kw_only=True, frozen=True):
    """A certificate that was made for a device, and the key that it is for."""

    certificate: str
    serial: str
    not_after_ms: int
    key_sha256: str
    renewed: bool
    """The one before stays good until it runs out: its device may lose power before it has stored this one."""


def sign(connection: sa.Connection, device: str, signed: Signed, *, now_ms: int) -> Identity:
    """Stores a device's new certificate. A first one takes back every other that was signed for that name.

    Raises:
        RuleRefusalError: the device has been revoked meanwhile, or another key has taken the name.
    """
    known = _known(connection, device)
    if known.state != "accepted" or (not signed.renewed and known.key_sha256 != signed.key_sha256):
        raise RuleRefusalError(f"{device!r} is not let in any more", reason="device_revoked", fix="ask for a join line")
    if not signed.renewed:
        if known.certificate:
            return known  # two requests at once: the first has signed
        _take_back(connection, device, now_ms=now_ms)
    stale = sa.and_(certificates.c.device == device, certificates.c.not_after_ms < now_ms)
    connection.execute(sa.delete(certificates).where(stale))
    row = {"serial": signed.serial, "device": device, "not_after_ms": signed.not_after_ms, "issued_ms": now_ms}
    connection.execute(sa.insert(certificates).values(row))
    new = structs.replace(
        known,
        certificate=signed.certificate,
        serial=signed.serial,
        not_after_ms=signed.not_after_ms,
        key_sha256=signed.key_sha256,
        changed_ms=now_ms,
    )
    _put(connection, new)
    return new


def revoke(connection: sa.Connection, device: str, *, now_ms: int) -> Identity:
    """Takes back whatever a device has, and marks it offline.

    A device that never asked can be refused too: it may have a certificate of one's own PKI.
    """
    known = find(connection, device) or Identity(
        device=device, state="revoked", invitation="", group="", key_sha256="", request="", asked_ms=now_ms
    )
    told = known.granted or "unknown"  # whatever the broker knows of it must go
    new = structs.replace(known, state="revoked", changed_ms=now_ms, granted=told)
    _put(connection, new)
    _take_back(connection, device, now_ms=now_ms)
    connection.execute(sa.update(devices).where(devices.c.device == device).values(online=False))
    return new


class Standing(Struct, kw_only=True, frozen=True):
    """What the tables of access know of a name."""

    state: State | None
    invitations: int
    """Made for that name alone."""


def standing(connection: sa.Connection, device: str) -> Standing:
    """What there is of a name, before it is forgotten."""
    known = find(connection, device)
    named = sa.select(sa.func.count()).select_from(invitations).where(invitations.c.device == device)
    return Standing(state=known.state if known else None, invitations=connection.execute(named).scalar_one())


def forget(connection: sa.Connection, device: str) -> None:
    """Deletes what is known of a name, but for what keeps others from it and a revoked device out.

    Of a revoked device its name, its key's digest and the numbers of its certificates stay. Of one that is let in everything
    does: its certificate is good, and with no row another key could have the name beside it.
    """
    known = find(connection, device)
    connection.execute(sa.delete(invitations).where(invitations.c.device == device))
    if known is not None and known.state == "waiting":
        connection.execute(sa.delete(identities).where(identities.c.device == device))
    elif known is not None and known.state == "revoked":
        _put(connection, structs.replace(known, invitation="", group="", request="", certificate=""))


def refused(connection: sa.Connection, *, now_ms: int) -> tuple[list[str], list[str]]:
    """Revoked devices, and serials of revoked certificates that have not run out."""
    names = connection.execute(sa.select(identities.c.device).where(identities.c.state == "revoked")).scalars()
    serials = connection.execute(
        sa.select(certificates.c.serial).where(
            certificates.c.revoked_ms.is_not(None), certificates.c.not_after_ms > now_ms
        )
    ).scalars()
    return list(names), list(serials)


def find(connection: sa.Connection, device: str) -> Identity | None:
    """What is known of a name."""
    row = connection.execute(sa.select(identities).where(identities.c.device == device)).mappings().first()
    return _identity(row) if row else None


def unsettled(connection: sa.Connection, *, wanted: str) -> list[Identity]:
    """Revoked devices that the broker may still know, and those let in whom it was told something else of than ``wanted``."""
    revoked = sa.and_(identities.c.state == "revoked", identities.c.granted != "")
    accepted = sa.and_(identities.c.state == "accepted", identities.c.certificate != "", identities.c.granted != wanted)
    return [
        _identity(row) for row in connection.execute(sa.select(identities).where(sa.or_(revoked, accepted))).mappings()
    ]


def note_granted(connection: sa.Connection, device: str, granted: str) -> None:
    """What the broker has been told, whatever the state has become meanwhile."""
    connection.execute(sa.update(identities).where(identities.c.device == device).values(granted=granted))


def view(connection: sa.Connection) -> list[dict[str, Any]]:
    """Every identity for people, by name; nothing in it is secret."""
    columns = ("device", "state", "group", "serial", "not_after_ms", "asked_ms", "changed_ms")
    joined = sa.outerjoin(identities, devices, identities.c.device == devices.c.device)
    query = (
        sa.select(*(identities.c[name] for name in columns), devices.c.online, devices.c.seen_ms)
        .select_from(joined)
        .order_by(identities.c.device)
    )
    return [{**row, "online": bool(row["online"])} for row in connection.execute(query).mappings()]


def _take_back(connection: sa.Connection, device: str, *, now_ms: int) -> None:
    standing = sa.and_(certificates.c.device == device, certificates.c.revoked_ms.is_(None))
    connection.execute(sa.update(certificates).where(standing).values(revoked_ms=now_ms))


def _known(connection: sa.Connection, device: str) -> Identity:
    known = find(connection, device)
    if known is None:
        raise CallerUnknownError(
            f"no device {device!r} has asked to join", reason="unknown_device", fix="see: outrider cloud devices ls"
        )
    return known


def _invitation(connection: sa.Connection, invitation_id: str) -> Invitation | None:
    row = connection.execute(sa.select(invitations).where(invitations.c.id == invitation_id)).mappings().first()
    return Invitation(**row) if row else None


def _identity(row: sa.RowMapping) -> Identity:
    return Identity(**row)


def _put(connection: sa.Connection, identity: Identity) -> None:
    values = structs.asdict(identity)
    connection.execute(insert(identities).values(values).on_conflict_do_update(index_elements=["device"], set_=values))
