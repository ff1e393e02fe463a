"""Rollouts, their devices, orders and stops, in the store. Functions of a connection; knows no rule.

A rollout's row has a version that every change raises: of two controllers that looked at the same one, the second changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.rollout.records import Member, Progress
from outrider_cloud.rollout.states import STATES
from outrider_cloud.store.portable import insert
from outrider_cloud.store.schema import assignments, devices, orders, releases, rollout_members, rollouts, stops
from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerUnknownError, RuleRefusalError
from outrider_wire.fitness import Requires
from outrider_wire.rollout import DeviceOrder, RolloutPlan, Stop

_OVER = [state for state, about in STATES.items() if about.over]
_ON_WAY = ("waiting", "begun")


class OvertakenError(Exception):
    """Another controller has changed it since it was read: what was to be written is not."""


class Kept(Struct, kw_only=True, frozen=True):
    """A rollout as it is stored."""

    plan: RolloutPlan
    asks: list[Requires]
    automatic: bool
    progress: Progress
    version: int
    created_ms: int
    changed_ms: int


class Signed(Struct, kw_only=True, frozen=True):
    """An order with its signature."""

    order: DeviceOrder
    envelope: bytes


def add(
    connection: sa.Connection, *, plan: RolloutPlan, asks: Sequence[Requires], automatic: bool, stamp_ms: int
) -> None:
    """Stores a new rollout.

    Raises:
        RuleRefusalError: there is one of that name, or one of the same tasks is not over.
    """
    tasks = sorted({each.task for each in plan.releases})
    for row in connection.execute(sa.select(rollouts.c.rollout, rollouts.c.tasks, rollouts.c.state)):
        if row.rollout == plan.rollout:
            raise RuleRefusalError(
                f"there is a rollout {plan.rollout} already",
                reason="rollout_exists",
                fix="sign the plan under another name",
            )
        if row.state not in _OVER and set(tasks) & set(row.tasks):
            raise RuleRefusalError(
                f"rollout {row.rollout} of task {next(iter(set(tasks) & set(row.tasks)))} is {row.state}",
                reason="rollout_overlaps",
                fix=f"wait for it, or: outrider ota abort {row.rollout}",
            )
    connection.execute(
        sa.insert(rollouts).values(
            rollout=plan.rollout,
            plan=msgspec.to_builtins(plan),
            asks=msgspec.to_builtins(list(asks)),
            tasks=tasks,
            automatic=automatic,
            state="scheduled",
            progress=msgspec.to_builtins(Progress()),
            version=1,
            created_ms=stamp_ms,
            changed_ms=stamp_ms,
        )
    )


def find(connection: sa.Connection, *, rollout: str) -> Kept:
    """One of them.

    Raises:
        CallerUnknownError: there is none of that name.
    """
    row = connection.execute(sa.select(rollouts).where(rollouts.c.rollout == rollout)).mappings().first()
    if row is None:
        raise CallerUnknownError(
            f"there is no rollout {rollout}", reason="unknown_rollout", fix="see: outrider ota status"
        )
    return _kept(row)


def all_of(connection: sa.Connection) -> list[Kept]:
    """All, newest first."""
    rows = connection.execute(sa.select(rollouts).order_by(rollouts.c.created_ms.desc(), rollouts.c.rollout))
    return [_kept(row) for row in rows.mappings()]


def members_of(connection: sa.Connection, *, rollout: str) -> dict[str, Member]:
    """The devices of a rollout, by name."""
    rows = connection.execute(sa.select(rollout_members.c.member).where(rollout_members.c.rollout == rollout))
    return {each.device: each for each in msgspec.convert(list(rows.scalars()), decodable(list[Member]))}


def busy(connection: sa.Connection, *, but: str) -> dict[str, str]:
    """Devices that are on their way in a rollout that is not over, but for one; and in which."""
    rows = connection.execute(
        sa.select(rollout_members.c.device, rollout_members.c.rollout)
        .join(rollouts, rollouts.c.rollout == rollout_members.c.rollout)
        .where(
            rollout_members.c.rollout != but,
            rollout_members.c.state.in_(_ON_WAY),
            rollouts.c.state.not_in(_OVER),
        )
    )
    return {row.device: row.rollout for row in rows}


def is_superseded(connection: sa.Connection, *, kept: Kept) -> bool:
    """Whether a later rollout is of one of its tasks."""
    tasks = {each.task for each in kept.plan.releases}
    later = sa.select(rollouts.c.tasks).where(
        rollouts.c.created_ms > kept.created_ms, rollouts.c.rollout != kept.plan.rollout
    )
    return any(tasks & set(theirs) for theirs in connection.execute(later).scalars())


def numbers(connection: sa.Connection, *, devices: Sequence[str]) -> dict[str, int]:
    """The number of the newest order to each device; 0: there was none."""
    found = dict.fromkeys(devices, 0)
    for start in range(0, len(devices), 500):
        some = devices[start : start + 500]
        rows = connection.execute(sa.select(orders.c.device, orders.c.number).where(orders.c.device.in_(some)))
        found |= {row.device: row.number for row in rows}
    return found


def change(
    connection: sa.Connection,
    *,
    kept: Kept,
    progress: Progress,
    members: Mapping[str, Member],
    signed: Sequence[Signed],
    withdraw: Mapping[str, Mapping[str, str]],
    stamp_ms: int,
) -> None:
    """Makes one step durable, all of it or nothing.

    Args:
        connection: In a transaction.
        kept: What was read.
        progress: What becomes of it.
        members: Those that are new or changed, each with its newest order's number.
        signed: New orders.
        withdraw: Devices whose order of this rollout is taken back, each with what it ran before, by task.
        stamp_ms: UTC.

    Raises:
        OvertakenError: somebody else has changed the rollout, or has ordered one of the devices.
    """
    name = kept.plan.rollout
    row = sa.update(rollouts).where(rollouts.c.rollout == name, rollouts.c.version == kept.version)
    values = {"progress": msgspec.to_builtins(progress), "state": progress.state, "version": kept.version + 1}
    if connection.execute(row.values(**values, changed_ms=stamp_ms)).rowcount != 1:
        raise OvertakenError(name)
    if members:
        rows = [
            {"rollout": name, "device": each.device, "state": each.state, "member": msgspec.to_builtins(each)}
            for each in members.values()
        ]
        added = insert(rollout_members)
        connection.execute(
            added.on_conflict_do_update(
                index_elements=["rollout", "device"],
                set_={"state": added.excluded.state, "member": added.excluded.member},
            ),
            rows,
        )
    _order(connection, signed, name)
    wanted = {each.order.device: {one.task: one.release for one in each.order.releases} for each in signed}
    for device, before in withdraw.items():
        taken = sa.update(orders).where(orders.c.device == device, orders.c.rollout == name)
        if connection.execute(taken.values(envelope=b"", sent=False)).rowcount:
            wanted[device] = dict(before)
    _assign(connection, wanted, stamp_ms)


def _order(connection: sa.Connection, signed: Sequence[Signed], rollout: str) -> None:
    """Stores orders, if each is the newest to its device."""
    if not signed:
        return
    newest = numbers(connection, devices=[each.order.device for each in signed])
    if late := [each.order.device for each in signed if newest[each.order.device] >= each.order.number]:
        raise OvertakenError(late[0])
    rows = [
        {
            "device": each.order.device,
            "number": each.order.number,
            "rollout": rollout,
            "envelope": each.envelope,
            "issued_ms": each.order.issued_ms,
            "sent": False,
        }
        for each in signed
    ]
    added = insert(orders)
    set_ = {name: added.excluded[name] for name in rows[0] if name != "device"}
    connection.execute(added.on_conflict_do_update(index_elements=["device"], set_=set_), rows)


def _assign(connection: sa.Connection, wanted: Mapping[str, Mapping[str, str]], stamp_ms: int) -> None:
    """What devices may pull, and what the status says that they should run: by device and task, a release."""
    named = {release for tasks in wanted.values() for release in tasks.values()}
    here = sa.select(releases.c.digest).where(releases.c.digest.in_(named))
    known = set(connection.execute(here).scalars())
    rows = [
        {"device": device, "task": task, "release": release, "counter": 1, "assigned_ms": stamp_ms}
        for device, tasks in wanted.items()
        for task, release in tasks.items()
    ]
    if kept := [row for row in rows if row["release"] in known]:
        added = insert(assignments)
        set_ = {
            "release": added.excluded.release,
            "counter": assignments.c.counter + 1,
            "assigned_ms": added.excluded.assigned_ms,
        }
        connection.execute(added.on_conflict_do_update(index_elements=["device", "task"], set_=set_), kept)
    for row in rows:
        if row["release"] not in known:
            gone = assignments.c.device == row["device"], assignments.c.task == row["task"]
            connection.execute(sa.delete(assignments).where(*gone))


def order_to(connection: sa.Connection, *, device: str) -> bytes | None:
    """The newest order to a device, signed; empty: it was taken back; None: there never was one."""
    found: bytes | None = connection.execute(
        sa.select(orders.c.envelope).where(orders.c.device == device)
    ).scalar_one_or_none()
    return found


class Unsent(NamedTuple):
    """The newest order to a device, or its end, as it stood when it was read."""

    device: str
    number: int
    envelope: bytes


def unsent(connection: sa.Connection, *, most: int) -> list[Unsent]:
    """Those that the broker has not taken."""
    what = sa.select(orders.c.device, orders.c.number, orders.c.envelope)
    return [Unsent(*row) for row in connection.execute(what.where(~orders.c.sent).limit(most))]


def were_sent(connection: sa.Connection, *, unsent: Sequence[Unsent]) -> None:
    """The broker has taken them; what became of an order since is yet to be said."""
    same = (orders.c.device == sa.bindparam("to"), orders.c.number == sa.bindparam("n"))
    said = sa.update(orders).where(*same, orders.c.envelope == sa.bindparam("what")).values(sent=True)
    if unsent:
        connection.execute(said, [{"to": each.device, "n": each.number, "what": each.envelope} for each in unsent])


def last_stop(connection: sa.Connection) -> tuple[Stop, bytes, bool] | None:
    """The stop with the highest number, signed, and whether it was sent; None: there never was one."""
    row = connection.execute(sa.select(stops).order_by(stops.c.number.desc()).limit(1)).first()
    return None if row is None else (msgspec.convert(row.stop, decodable(Stop)), row.envelope, row.sent)


def heeded_stops(connection: sa.Connection) -> list[int]:
    """The number of the newest stop that each device says it heeds: theirs, whoever made it."""
    said = connection.execute(sa.select(devices.c.report)).scalars()
    numbers = (report.get("stop") for report in said)
    return [number for number in numbers if isinstance(number, int)]


class NewestStop(NamedTuple):
    """As it is to be said."""

    number: int
    envelope: bytes
    sent: bool
    lets_go: bool
    """Something that the one before stopped may go on by it."""


def newest_stop(connection: sa.Connection) -> NewestStop | None:
    """The stop with the highest number; None: there never was one."""
    rows = connection.execute(sa.select(stops).order_by(stops.c.number.desc()).limit(2)).all()
    if not rows:
        return None
    now, before = (msgspec.convert(row.stop, decodable(Stop)) for row in (rows[0], rows[-1]))
    lets_go = now.lifted or bool(now.rollouts and (not before.rollouts or set(before.rollouts) - set(now.rollouts)))
    return NewestStop(now.number, rows[0].envelope, rows[0].sent, lets_go and not before.lifted)


def say_stop_again(connection: sa.Connection) -> None:
    """The broker may have it no more."""
    newest = sa.select(sa.func.max(stops.c.number)).scalar_subquery()
    connection.execute(sa.update(stops).where(stops.c.number == newest).values(sent=False))


def add_stop(connection: sa.Connection, *, stop: Stop, envelope: bytes, after: int) -> None:
    """Stores a stop that follows number ``after``.

    Raises:
        OvertakenError: another one has been made meanwhile.
    """
    newest = connection.execute(sa.select(sa.func.max(stops.c.number))).scalar_one_or_none() or 0
    if newest != after:
        raise OvertakenError(str(newest))
    row = {"number": stop.number, "stop": msgspec.to_builtins(stop), "envelope": envelope, "sent": False}
    connection.execute(sa.insert(stops).values(row))


def stop_was_sent(connection: sa.Connection, *, number: int) -> None:
    """The broker has taken it."""
    connection.execute(sa.update(stops).where(stops.c.number == number).values(sent=True))


def _kept(row: Any) -> Kept:
    return msgspec.convert({name: row[name] for name in Kept.__struct_fields__}, decodable(Kept))
