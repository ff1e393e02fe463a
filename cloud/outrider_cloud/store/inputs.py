"""The account of escalations: claimed by one worker, then in exactly one terminal state. Functions of a connection.

A row is keyed by (device, id), so that a repeat finds the claim or the reply; the first committed reply wins, and the counts
move in the same transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store import examples, forgotten
from outrider_cloud.store.dialects import dialect_of
from outrider_cloud.store.portable import insert
from outrider_cloud.store.schema import counts, inputs
from outrider_wire.report import Account

Settled = Literal["answered", "refused", "expired"]
_AT_ONCE = 500
MAX_CLAIMS = 5
"""An input that was claimed so often and never settled takes its workers down with it; it is given up."""

_ACCOUNT_NAMES = {"answered": "cloud", "refused": "refused", "expired": "expired", "received": "received"}


_IS_IT = sa.and_(inputs.c.device == sa.bindparam("of_device"), inputs.c.id == sa.bindparam("of_id"))
# Made once: to build and compile a statement anew costs more than to run it.
_START = insert(inputs).on_conflict_do_nothing()
_STANDING = sa.select(inputs.c.state, inputs.c.reply).where(_IS_IT)
STANDING = "SELECT state, reply FROM inputs WHERE device = ? AND id = ?"
"""`_STANDING`, for `Store.glance`: with the device and the id."""
_VOID = sa.or_(inputs.c.boot != sa.bindparam("of_boot"), inputs.c.lease_until_ms < sa.bindparam("now_ms"))
"""Leases that have run out, and those of a boot whose workers are all gone."""
_TAKE = (
    sa.update(inputs)
    .where(_IS_IT, _VOID)
    .values(
        worker=sa.bindparam("by"),
        boot=sa.bindparam("of_boot"),
        lease_until_ms=sa.bindparam("until_ms"),
        claims=inputs.c.claims + 1,
    )
)
_SETTLE = (
    sa.update(inputs)
    .where(_IS_IT, inputs.c.state == "claimed")
    .values(
        state=sa.bindparam("as"),
        reply=sa.bindparam("with"),
        settled_ms=sa.bindparam("at_ms"),
        sent=sa.bindparam("was_sent"),
        request=None,
    )
)
_RESTATE = sa.update(inputs).where(_IS_IT, inputs.c.state == "claimed").values(request=sa.bindparam("as_said"))
_MARK_SENT = sa.update(inputs).where(_IS_IT).values(sent=True)
_COUNT = (
    insert(counts)
    .values(task=sa.bindparam("task"), name=sa.bindparam("name"), n=sa.bindparam("more"))
    .on_conflict_do_update(index_elements=["task", "name"], set_={"n": counts.c.n + sa.bindparam("more")})
)
_KEY = sa.tuple_(inputs.c.device, inputs.c.id)
_WHICH = sa.select(inputs.c.device, inputs.c.id).where(_KEY.in_(sa.bindparam("keys", expanding=True)))


class Claim(Struct, kw_only=True, frozen=True):
    """What is stored of an escalation while it waits for its answer. Times are UTC milliseconds, but for the lease's."""

    device: str
    id: str
    task: str
    worker: str
    lease: Lease
    received_ms: int
    answer_by_ms: int
    keep_until_ms: int
    content_type: str
    correlation: bytes | None
    request: bytes
    """The escalation, encoded."""
    mark: int = 0
    """The newest mark of something forgotten that was known when it came."""

    @property
    def said(self) -> forgotten.Said:
        """By whom, and when, for whoever asks whether it was forgotten."""
        return forgotten.Said(self.device, self.id, self.mark)


class Found(NamedTuple):
    """What a claim met: nothing before it (``claimed``), another's claim (``held``), or a reply (``settled``)."""

    outcome: Literal["claimed", "held", "settled"]
    reply: bytes = b""


def start(connection: sa.Connection, wanted: Claim) -> Found:
    """Claims an input, unless it is settled or another worker's lease on it still runs. One that was forgotten is refused, and not kept."""
    if forgotten.covers(connection, wanted.said):
        return Found("settled", forgotten.refusal(wanted.id))
    lease = dialect_of(connection).term(connection, wanted.lease)
    new = _row(wanted) | {"boot": lease.boot, "lease_until_ms": lease.until_ms, "state": "claimed", "sent": False}
    if connection.execute(_START, new).rowcount == 1:
        count(connection, wanted.task, "received")
        return Found("claimed")
    it = {"of_device": wanted.device, "of_id": wanted.id}
    standing = connection.execute(_STANDING, it).one()
    if standing.state != "claimed":
        return Found("settled", standing.reply)
    terms = {"by": wanted.worker, **_terms(lease)}
    return Found("claimed" if connection.execute(_TAKE, it | terms).rowcount == 1 else "held")


def _row(claim: Claim) -> dict[str, Any]:
    fields = {field: getattr(claim, field) for field in claim.__struct_fields__ if field not in ("lease", "mark")}
    return fields | {"boot": claim.lease.boot, "lease_until_ms": claim.lease.until_ms, "claims": 1}


def _terms(lease: Lease) -> dict[str, Any]:
    return {"of_boot": lease.boot, "now_ms": lease.now_ms, "until_ms": lease.until_ms}


def restate(connection: sa.Connection, *, device: str, input_id: str, request: bytes) -> None:
    """More is known of a claimed input: from now on this is what is stored of it."""
    connection.execute(_RESTATE, {"of_device": device, "of_id": input_id, "as_said": request})


class Settlement(Struct, kw_only=True, frozen=True):
    """The end of one input."""

    device: str
    id: str
    task: str
    state: Settled
    reply: bytes
    settled_ms: int
    sent: bool = False
    """Whether the broker has taken the reply already."""
    example: examples.NewExample | None = None


Life = tuple[Claim, Settlement]
"""How an input was claimed and how it ended, for one that is stored only then."""


def settle(connection: sa.Connection, end: Settlement) -> bytes:
    """Sets the terminal state and the reply, unless there is one; returns the reply that stands. Nothing of what is there no more."""
    it = {"of_device": end.device, "of_id": end.id}
    values = {"as": end.state, "with": end.reply, "at_ms": end.settled_ms, "was_sent": end.sent}
    if connection.execute(_SETTLE, it | values).rowcount == 1:
        count(connection, end.task, end.state)
        if end.example is not None:
            examples.add(connection, end.example)
        return end.reply
    standing = find(connection, device=end.device, input_id=end.id)
    return standing.reply if standing else forgotten.refusal(end.id)


def record(connection: sa.Connection, lives: Sequence[Life]) -> list[bytes]:
    """The whole lives of inputs in a few statements, but for those of which more is known: these are settled.

    Returns:
        The replies that stand, in order.
    """
    gone = forgotten.covered(connection, [claim.said for claim, _ in lives])
    if gone:
        stay = iter(record(connection, [life for at, life in enumerate(lives) if at not in gone]))
        return [forgotten.refusal(claim.id) if at in gone else next(stay) for at, (claim, _) in enumerate(lives)]
    if len(lives) == 1:
        return [_record_one(connection, *lives[0])]
    known = there(connection, keys=[(claim.device, claim.id) for claim, _ in lives])
    new: dict[tuple[str, str], Life] = {}
    for claim, end in lives:
        key = (claim.device, claim.id)
        if key not in known:
            new.setdefault(key, (claim, end))
    if new:
        _record_new(connection, list(new.values()))
    return [
        end.reply if (mine := new.get((claim.device, claim.id))) and mine[1] is end else settle(connection, end)
        for claim, end in lives
    ]


def _record_one(connection: sa.Connection, claim: Claim, end: Settlement) -> bytes:
    if connection.execute(_START, _ended(claim, end)).rowcount != 1:
        return settle(connection, end)
    _count_all(connection, [end])
    if end.example is not None:
        examples.add(connection, end.example)
    return end.reply


def _record_new(connection: sa.Connection, lives: Sequence[Life]) -> None:
    connection.execute(_START, [_ended(claim, end) for claim, end in lives])
    _count_all(connection, [end for _, end in lives])
    examples.add_all(connection, [end.example for _, end in lives if end.example is not None])


def there(connection: sa.Connection, *, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these (device, id) are in the table."""
    found: set[tuple[str, str]] = set()
    for start in range(0, len(keys), _AT_ONCE):
        rows = connection.execute(_WHICH, {"keys": keys[start : start + _AT_ONCE]})
        found.update((row.device, row.id) for row in rows)
    return found


def _ended(claim: Claim, end: Settlement) -> dict[str, Any]:
    """The row of an input that is claimed and settled at once."""
    said = {"state": end.state, "reply": end.reply, "settled_ms": end.settled_ms, "sent": end.sent}
    return _row(claim) | said | {"request": None}


def find(connection: sa.Connection, *, device: str, input_id: str) -> Found | None:
    """What is known of an input: held, or settled with the reply that stands; None: it was never claimed."""
    return found(connection.execute(_STANDING, {"of_device": device, "of_id": input_id}).one_or_none())


def found(standing: Sequence[Any] | None) -> Found | None:
    """What a row of `STANDING` says, as `find` does."""
    if standing is None:
        return None
    state, reply = standing
    return Found("held") if state == "claimed" else Found("settled", reply)


def mark_sent(connection: sa.Connection, *, keys: Sequence[tuple[str, str]]) -> None:
    """Notes that the broker has taken the replies to these (device, id)."""
    if keys:
        connection.execute(_MARK_SENT, [{"of_device": device, "of_id": input_id} for device, input_id in keys])


def unsent(
    connection: sa.Connection, *, worker: str, now_ms: int, after: tuple[str, str] = ("", ""), most: int = 500
) -> list[dict[str, Any]]:
    """What ``worker`` has settled, is still wanted, and is not known to have reached the broker: ``most`` by (device, id)."""
    here = inputs.c
    wanted = (here.state != "claimed", sa.not_(here.sent), here.worker == worker, here.keep_until_ms > now_ms)
    page = sa.tuple_(here.device, here.id) > after
    rows = connection.execute(sa.select(inputs).where(*wanted, page).order_by(here.device, here.id).limit(most))
    return [dict(row) for row in rows.mappings()]


def take_over(
    connection: sa.Connection, *, worker: str, tasks: Sequence[str], lease: Lease, most: int, own: bool
) -> list[dict[str, Any]]:
    """Claims for ``worker`` what is unanswered and whose lease is void, at most ``most``, the oldest first; the rows of it.

    ``own``: what was its own too, for it has just begun.
    """
    lease = dialect_of(connection).term(connection, lease)
    if own:
        of_mine = (inputs.c.state == "claimed", inputs.c.task.in_(tasks), inputs.c.worker == worker)
        connection.execute(sa.update(inputs).where(*of_mine).values(boot="", lease_until_ms=0, worker=""))
    free = (
        sa.select(inputs.c.device, inputs.c.id)
        .where(inputs.c.state == "claimed", inputs.c.task.in_(tasks), _VOID)
        .order_by(inputs.c.received_ms)
        .limit(most)
    )
    taken = (
        sa.update(inputs)
        .where(sa.tuple_(inputs.c.device, inputs.c.id).in_(free))
        .values(worker=worker, boot=lease.boot, lease_until_ms=sa.bindparam("until_ms"), claims=inputs.c.claims + 1)
        .returning(inputs)
    )
    return [dict(row) for row in connection.execute(taken, _terms(lease)).mappings()]


def take_back(
    connection: sa.Connection, *, worker: str, task: str, keys: Sequence[tuple[str, str]], most: int
) -> list[dict[str, Any]]:
    """Claims for ``worker`` once more what it holds already of these (device, id), at most ``most``; the rows of it."""
    mine = (inputs.c.state == "claimed", inputs.c.task == task, inputs.c.worker == worker)
    taken: list[dict[str, Any]] = []
    for start in range(0, len(keys), _AT_ONCE):
        some = sa.select(inputs.c.device, inputs.c.id).where(*mine, _KEY.in_(keys[start : start + _AT_ONCE]))
        again = sa.update(inputs).where(_KEY.in_(some.limit(most - len(taken)))).values(claims=inputs.c.claims + 1)
        taken += [dict(row) for row in connection.execute(again.returning(inputs)).mappings()]
    return taken


def renew(connection: sa.Connection, *, worker: str, lease: Lease) -> None:
    """Prolongs the leases of everything that ``worker`` holds."""
    lease = dialect_of(connection).term(connection, lease)
    connection.execute(
        sa.update(inputs)
        .where(inputs.c.state == "claimed", inputs.c.worker == worker)
        .values(boot=lease.boot, lease_until_ms=lease.until_ms)
    )


def held_by(connection: sa.Connection, *, worker: str) -> set[tuple[str, str]]:
    """The (device, id) of all that ``worker`` holds and has not answered."""
    mine = sa.select(inputs.c.device, inputs.c.id).where(inputs.c.state == "claimed", inputs.c.worker == worker)
    return {(row.device, row.id) for row in connection.execute(mine)}


def give_up(connection: sa.Connection, *, worker: str) -> None:
    """Ends the leases of everything that ``worker`` holds. A worker that ends in order was not taken down by any of it."""
    connection.execute(
        sa.update(inputs)
        .where(inputs.c.state == "claimed", inputs.c.worker == worker)
        .values(boot="", lease_until_ms=0, claims=sa.case((inputs.c.claims > 0, inputs.c.claims - 1), else_=0))
    )


def forget(connection: sa.Connection, *, before_ms: int) -> int:
    """Deletes settled rows that no device will ask for again; how many they were. The counts stay."""
    gone = connection.execute(sa.delete(inputs).where(inputs.c.state != "claimed", inputs.c.keep_until_ms < before_ms))
    return gone.rowcount


def accounts(connection: sa.Connection) -> dict[str, Account]:
    """The account of each task: what was received, what is pending, and every terminal state."""
    found: dict[str, dict[str, int]] = {}
    for task, name, n in connection.execute(sa.select(counts.c.task, counts.c.name, counts.c.n)):
        found.setdefault(task, {})[_ACCOUNT_NAMES[name]] = n
    pending = sa.select(inputs.c.task, sa.func.count()).where(inputs.c.state == "claimed").group_by(inputs.c.task)
    for task, n in connection.execute(pending):
        found.setdefault(task, {})["pending"] = n
    return {task: Account(**numbers) for task, numbers in sorted(found.items())}


def total(accounts: Mapping[str, Account]) -> Account:
    """The sum over all tasks."""
    fields = Account.__struct_fields__
    return Account(**{field: sum(getattr(account, field) for account in accounts.values()) for field in fields})


def count(connection: sa.Connection, task: str, name: str) -> None:
    """One more of ``name`` in the account of ``task``."""
    connection.execute(_COUNT, {"task": task, "name": name, "more": 1})


def _count_all(connection: sa.Connection, ends: Sequence[Settlement]) -> None:
    """That these inputs have come, and how they ended."""
    moved = Counter((end.task, name) for end in ends for name in ("received", end.state))
    connection.execute(_COUNT, [{"task": task, "name": name, "more": n} for (task, name), n in moved.items()])
