"""Marks of what was forgotten, looked at in the transaction that would write it down again. Functions of a connection.

Marks are numbered. Whoever takes a message notes the newest number that its process has heard of (`Store.forgotten`); what comes of the
message is not written where a later mark is of its device, or any mark is of its input. So a worker that holds a message in memory,
however long it stands still, writes nothing of whom another has forgotten meanwhile, whatever their clocks say. A device that goes on
speaking is heard again once the number has come round; an input that was forgotten stays so.

A mark holds no name: of an input the hash of its id, which nobody guesses; of a device a salted one, which somebody with a list of
names can try. It goes after `KEPT_MS`, as long as a device may keep an input, and the oldest go when there are more than `KEPT`; what
is older than the oldest that is left counts as forgotten.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from outrider_cloud.store.schema import forgotten
from outrider_wire.codec import encode
from outrider_wire.messages import Refusal

KEPT_MS = 366 * 86_400_000
KEPT = 100_000
_AT_ONCE = 500

_HERE = forgotten.c
_EDGES = sa.select(
    sa.select(sa.func.min(_HERE.number)).scalar_subquery(), sa.select(sa.func.max(_HERE.number)).scalar_subquery()
)
_DEVICES = sa.select(_HERE.number, _HERE.salt, _HERE.hash).where(_HERE.salt != "", _HERE.number > sa.bindparam("after"))
_INPUT = sa.select(_HERE.hash).where(
    _HERE.salt == "", sa.or_(_HERE.hash == sa.bindparam("any"), _HERE.hash == sa.bindparam("own"))
)
_INPUTS = sa.select(_HERE.hash).where(_HERE.salt == "", _HERE.hash.in_(sa.bindparam("hashes", expanding=True)))


class Said(NamedTuple):
    """By whom something was said, of which input ('': of none), and the newest mark that was known when it came."""

    device: str
    input: str = ""
    mark: int = 0


def mark(connection: sa.Connection, *, device: str, input_id: str, at_ms: int) -> int:
    """Marks a device, or an input (of that device; '': of any); the number of it."""
    number = newest(connection) + 1
    salt = "" if input_id else secrets.token_hex(16)
    told = _of_input(device, input_id) if input_id else _of_device(salt, device)
    row = {"number": number, "salt": salt, "hash": told, "at_ms": at_ms}
    connection.execute(sa.insert(forgotten).values(row))
    return number


def newest(connection: sa.Connection) -> int:
    """The number of the last mark; 0: there is none."""
    return connection.execute(sa.select(sa.func.max(_HERE.number))).scalar_one() or 0


def covered(connection: sa.Connection, said: Sequence[Said]) -> set[int]:
    """Which of these (by their places) nothing may be written of."""
    oldest, last = connection.execute(_EDGES).one()
    if last is None:
        return set()
    found = {at for at, each in enumerate(said) if each.mark < oldest - 1}
    after = min((each.mark for each in said), default=last)
    marks = connection.execute(_DEVICES, {"after": after}).all() if after < last else []
    for at, each in enumerate(said):
        if any(row.number > each.mark and row.hash == _of_device(row.salt, each.device) for row in marks):
            found.add(at)
    return found | _inputs_among(connection, said)


def _inputs_among(connection: sa.Connection, said: Sequence[Said]) -> set[int]:
    """The places of those whose input is marked."""
    hashes = {
        at: (_of_input("", each.input), _of_input(each.device, each.input))
        for at, each in enumerate(said)
        if each.input
    }
    if len(hashes) == 1:  # a statement without a list is built once, and costs half
        [(at, (any_device, own))] = hashes.items()
        return {at} if connection.execute(_INPUT, {"any": any_device, "own": own}).first() else set()
    wanted = [one for both in hashes.values() for one in both]
    there: set[str] = set()
    for start in range(0, len(wanted), _AT_ONCE):
        there.update(connection.execute(_INPUTS, {"hashes": wanted[start : start + _AT_ONCE]}).scalars())
    return {at for at, both in hashes.items() if there & set(both)}


def covers(connection: sa.Connection, said: Said) -> bool:
    """Whether nothing may be written of this."""
    return bool(covered(connection, [said]))


def refusal(input_id: str) -> bytes:
    """What whoever still asks about it is told."""
    return encode(Refusal(id=input_id, reason="forgotten", detail="the cloud was asked to forget it"))


def delete_older(connection: sa.Connection, *, before_ms: int, most: int = KEPT) -> int:
    """Deletes the oldest marks, up to the first that is younger than ``before_ms``, and those beyond ``most``; how many.

    The newest stays, without what it tells: by it the numbers go on.
    """
    last = newest(connection)
    young = connection.execute(sa.select(sa.func.min(_HERE.number)).where(_HERE.at_ms >= before_ms)).scalar_one()
    if young is None:
        connection.execute(sa.update(forgotten).where(_HERE.number == last).values(salt="", hash=""))
    first = max(last if young is None else young, last - most + 1)
    return connection.execute(sa.delete(forgotten).where(_HERE.number < first)).rowcount


def _of_device(salt: str, device: str) -> str:
    return hashlib.sha256(f"{salt}/{device}".encode()).hexdigest()


def _of_input(device: str, input_id: str) -> str:
    return hashlib.sha256(f"{device}/{input_id}".encode()).hexdigest()
