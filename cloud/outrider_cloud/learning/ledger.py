"""Which certification rows have been used, and what the next use pays. Functions of a connection; judges no model.

Rows that no certificate has used pay δ. Once they are too few, all rows are used again, and their k-th use pays δ·6/(π²k²)
(`outrider_wire.certificate.reused_delta`). Rows count as used from when they are taken, whatever comes of it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store.schema import certifications, certified_groups
from outrider_export.certify import data_digest
from outrider_export.promises import forecast
from outrider_wire.certificate import can_test, reused_delta
from outrider_wire.groups import usable_rows
from outrider_wire.manifest import Certificate


class Draw(Struct, kw_only=True, frozen=True):
    """The groups that a certification may use, and what it pays."""

    groups: list[str]
    use: int
    """k: one more than the most uses that any of them has seen."""
    delta: float
    """δ of this certification."""
    fresh: int
    """Groups in the store that no certification had used."""
    rows: tuple[int, int] = (0, 1)
    """Rows of these groups that certify, and at most how many of one group."""
    enough: bool = True
    """False: not even without an error could they certify anything."""

    def shortage(self, risk: float) -> str:
        """Why they are not enough, in words."""
        before = f" (they have been used before, and pay for it: use {self.use})" if self.use > 1 else ""
        rows, most = self.rows
        return forecast(rows, risk, self.delta, rows_a_group=most) + before


class Taken(NamedTuple):
    """A draw, written down."""

    number: int
    """Of the certification; 0 where the rows are too few, so that nothing was written down."""
    drawn: Draw


def draw(
    groups: Sequence[str], uses: Mapping[str, int], *, risk: float, delta: float, coverages: Sequence[float]
) -> Draw:
    """Fresh groups where they are enough to test one of ``coverages``, else all.

    Args:
        groups: of the certification rows there are, one name a row.
        uses: how many certifications have used each.
        risk: r*.
        delta: δ of a first use.
        coverages: what will be tested, rising.
    """
    unused = [group for group in groups if not uses.get(group)]
    fresh = sorted(set(unused))
    use = 1 + max((uses.get(group, 0) for group in groups), default=0)
    enough = can_test(unused, risk, delta, coverages)
    if use == 1 or enough:
        return Draw(groups=fresh, use=1, delta=delta, fresh=len(fresh), rows=usable_rows(unused), enough=enough)
    paid = reused_delta(delta, use)
    return Draw(
        groups=sorted(set(groups)),
        use=use,
        delta=paid,
        fresh=len(fresh),
        rows=usable_rows(groups),
        enough=can_test(groups, risk, paid, coverages),
    )


def uses(connection: sa.Connection, task: str) -> dict[str, int]:
    """Group → how many certifications of that task have used it."""
    counted = (
        sa.select(certified_groups.c.group, sa.func.count())
        .join(certifications, certifications.c.id == certified_groups.c.certification)
        .where(certifications.c.task == task)
        .group_by(certified_groups.c.group)
    )
    return {str(group): n for group, n in connection.execute(counted).all()}


def take(
    connection: sa.Connection,
    *,
    task: str,
    groups: Sequence[str],
    risk: float,
    delta: float,
    coverages: Sequence[float],
    now_ms: int,
) -> Taken:
    """Draws groups and writes them down as used, in one change; where they are too few, nothing is used up."""
    drawn = draw(groups, uses(connection, task), risk=risk, delta=delta, coverages=coverages)
    if not drawn.enough:
        return Taken(0, drawn)
    return Taken(record(connection, task=task, drawn=drawn, risk=risk, bundle="", now_ms=now_ms), drawn)


def record(connection: sa.Connection, *, task: str, drawn: Draw, risk: float, bundle: str, now_ms: int) -> int:
    """Writes a use down; its number. ``bundle`` is '' while the certificate is still to be made."""
    row = {
        "task": task,
        "data_digest": data_digest(drawn.groups),
        "use": drawn.use,
        "delta": drawn.delta,
        "risk": risk,
        "n": len(drawn.groups),
        "bundle": bundle,
        "created_ms": now_ms,
    }
    inserted = sa.insert(certifications).values(row).returning(certifications.c.id)
    number: int = connection.execute(inserted).scalar_one()
    if drawn.groups:
        members = [{"certification": number, "group": group} for group in drawn.groups]
        connection.execute(sa.insert(certified_groups), members)
    return number


def name_bundle(connection: sa.Connection, *, number: int, bundle: str) -> None:
    """Says which bundle a certification came to."""
    connection.execute(sa.update(certifications).where(certifications.c.id == number).values(bundle=bundle))


def recognise(
    connection: sa.Connection, *, task: str, bundle: str, certificate: Certificate, groups: Sequence[str], now_ms: int
) -> bool:
    """Writes down the use that a certificate made elsewhere made of these very groups; whether it did.

    A bundle that ``outrider export`` or ``outrider distill fit`` certified has used rows that the ledger has not heard of.
    """
    members = sorted(set(groups))
    known = sa.select(certifications.c.id).where(
        certifications.c.task == task, certifications.c.data_digest == certificate.data_digest
    )
    if certificate.data_digest != data_digest(members) or connection.execute(known.limit(1)).first() is not None:
        return False
    used = Draw(groups=members, use=1, delta=certificate.delta, fresh=0)
    record(connection, task=task, drawn=used, risk=certificate.risk, bundle=bundle, now_ms=now_ms)
    return True
