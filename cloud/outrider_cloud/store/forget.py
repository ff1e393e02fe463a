"""What the store holds of one device, or of one input: found, and erased from every table. Functions of a connection.

The account stays: it knows numbers and no names. What was unanswered is counted as refused, so that it still adds up.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store import forgotten, identities, references
from outrider_cloud.store import inputs as account
from outrider_cloud.store.portable import random_name
from outrider_cloud.store.schema import (
    assignments,
    certifications,
    certified_groups,
    dead_letters,
    devices,
    examples,
    inputs,
    orders,
    payloads,
    rollout_members,
    rollouts,
    rounds,
)


class Whom(NamedTuple):
    """What is to be forgotten: a device with all that it ever sent, or one input."""

    device: str = ""
    input: str = ""


class Use(Struct, kw_only=True, frozen=True):
    """Something that has looked at forgotten examples, and goes on knowing what it learnt from them."""

    kind: Literal["round", "certification"]
    id: int
    task: str
    examples: int
    what: str
    """A round's state and candidate; a certification's bundle."""
    roles: dict[str, int] = {}


class Found(Struct, kw_only=True, frozen=True):
    """What there is. Numbers of rows, but for the files."""

    inputs: int
    unanswered: int
    """Of ``inputs``: refused when they are forgotten."""
    examples: int
    payloads: int
    files: int
    """Parts too large for the database, and files that were begun."""
    dead_letters: int
    devices: int
    assignments: int
    access: identities.Standing | None
    """Of a device: what it may do on the broker. None: an input is forgotten."""
    retained: list[str]
    """Topics on which the broker keeps a message of the device."""
    used: list[Use]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to forget."""
        rows = self.inputs + self.examples + self.dead_letters + self.devices + self.assignments
        return not rows + self.files and self.access in (None, identities.Standing(state=None, invitations=0))


class Erased(NamedTuple):
    """What an erasure leaves to be done outside the database."""

    digests: set[str]
    """SHA-256 of parts that nothing names any more; files of these names can go."""
    open: list[Mapping[str, Any]]
    """The rows of what was unanswered: their devices may still wait."""
    mark: int
    """Its number among all that was forgotten."""


def _of(whom: Whom, device: sa.Column[Any], input_id: sa.Column[Any]) -> sa.ColumnElement[bool]:
    wanted = [device == whom.device] if whom.device else []
    if whom.input:
        wanted.append(input_id == whom.input)
    return sa.and_(*wanted)


def _inputs(whom: Whom) -> sa.ColumnElement[bool]:
    return _of(whom, inputs.c.device, inputs.c.id)


def _examples(whom: Whom) -> sa.ColumnElement[bool]:
    """Rows that a person imported are no device's; by their own id they can be forgotten."""
    here = examples.c
    mine = _of(whom, here.device, here.input)
    return mine if whom.input else sa.and_(mine, here.source != "import")


def _letters(whom: Whom) -> sa.ColumnElement[bool]:
    return _of(whom, dead_letters.c.device, dead_letters.c.input)


def find(connection: sa.Connection, *, whom: Whom) -> Found:
    """What there is to forget; files that are only begun and retained topics are for others to add."""

    def count(table: sa.Table, wanted: sa.ColumnElement[bool]) -> int:
        n: int = connection.execute(sa.select(sa.func.count()).select_from(table).where(wanted)).scalar_one()
        return n

    digests = _digests(connection, whom)
    rows = sa.select(sa.func.count()).select_from(payloads).where(payloads.c.sha256.in_(digests))
    in_rows: int = connection.execute(rows).scalar_one()
    whole = not whom.input
    return Found(
        inputs=count(inputs, _inputs(whom)),
        unanswered=count(inputs, sa.and_(_inputs(whom), inputs.c.state == "claimed")),
        examples=count(examples, _examples(whom)),
        payloads=in_rows,
        files=0,
        dead_letters=count(dead_letters, _letters(whom)),
        devices=count(devices, devices.c.device == whom.device) if whole else 0,
        assignments=count(assignments, assignments.c.device == whom.device) if whole else 0,
        access=identities.standing(connection, whom.device) if whole else None,
        retained=[],
        used=_rounds(connection, whom) + _certifications(connection, whom),
    )


def digests(connection: sa.Connection, *, whom: Whom) -> set[str]:
    """SHA-256 of every part that it names; others may name them too."""
    return _digests(connection, whom)


def erase(connection: sa.Connection, *, whom: Whom, at_ms: int) -> Erased:
    """Deletes it from every table, and marks it: what others hold of it in memory is not written any more."""
    named = _digests(connection, whom)
    unanswered = sa.select(inputs).where(_inputs(whom), inputs.c.state == "claimed")
    still_open: list[Mapping[str, Any]] = [dict(row) for row in connection.execute(unanswered).mappings()]
    for row in still_open:
        account.count(connection, row["task"], "refused")
    _anonymise(connection, whom)
    for table, wanted in ((inputs, _inputs(whom)), (examples, _examples(whom)), (dead_letters, _letters(whom))):
        connection.execute(sa.delete(table).where(wanted))
    if not whom.input:
        _leave_rollouts(connection, whom.device)
        for table in (assignments, devices, rollout_members, orders):
            connection.execute(sa.delete(table).where(table.c.device == whom.device))
        identities.forget(connection, whom.device)
    gone = references.unnamed(connection, named)
    connection.execute(sa.delete(payloads).where(payloads.c.sha256.in_(gone)))
    number = forgotten.mark(connection, device=whom.device, input_id=whom.input, at_ms=at_ms)
    return Erased(gone, still_open, number)


def _leave_rollouts(connection: sa.Connection, device: str) -> None:
    """Out of whom others are compared with. A controller that looked at any rollout before writes nothing any more: it may
    be about to make a member of the device."""
    connection.execute(sa.update(rollouts).values(version=rollouts.c.version + 1))
    for row in connection.execute(sa.select(rollouts.c.rollout, rollouts.c.progress)).all():
        named = {part: row.progress.get(part) or {} for part in ("control", "since")}
        if any(device in each for each in named.values()):
            left = {part: {name: each[name] for name in each if name != device} for part, each in named.items()}
            changed = sa.update(rollouts).where(rollouts.c.rollout == row.rollout)
            connection.execute(changed.values(progress=row.progress | left))


def _digests(connection: sa.Connection, whom: Whom) -> set[str]:
    named: set[str] = set()
    for parts in connection.execute(sa.select(examples.c.parts).where(_examples(whom))).scalars():
        named.update(parts.values())
    requests = sa.select(inputs.c.request).where(_inputs(whom), inputs.c.request.is_not(None))
    for request in connection.execute(requests).scalars():
        named.update(references.parts_of(request))
    return named


def _groups(whom: Whom) -> sa.Select[tuple[str]]:
    """Groups of forgotten examples that no other example is of."""
    others = sa.select(examples.c.group).where(sa.not_(sa.func.coalesce(_examples(whom), sa.false())))
    return sa.select(examples.c.group).where(_examples(whom), examples.c.group.not_in(others))


def _anonymise(connection: sa.Connection, whom: Whom) -> None:
    """The ledger goes on knowing how many groups a certificate used, and no longer which these were."""
    unnamed = sa.literal("forgotten-").concat(random_name())
    wanted = certified_groups.c.group.in_(_groups(whom))
    connection.execute(sa.update(certified_groups).where(wanted).values(group=unnamed))


def _rounds(connection: sa.Connection, whom: Whom) -> list[Use]:
    """Learning rounds that began when the examples were there."""
    here = examples.c
    query = (
        sa.select(rounds.c.id, rounds.c.task, rounds.c.state, rounds.c.candidate, here.role, sa.func.count())
        .join(examples, sa.and_(here.task == rounds.c.task, here.created_ms <= rounds.c.started_ms))
        .where(_examples(whom))
        .group_by(rounds.c.id, here.role)
        .order_by(rounds.c.id)
    )
    found: dict[int, Use] = {}
    for number, task, state, candidate, role, n in connection.execute(query):
        before = found.get(number)
        found[number] = Use(
            kind="round",
            id=number,
            task=task,
            what=f"{state} {(candidate or 'no candidate')[:12]}",
            examples=n + (before.examples if before else 0),
            roles={**(before.roles if before else {}), role: n},
        )
    return list(found.values())


def _certifications(connection: sa.Connection, whom: Whom) -> list[Use]:
    """Certificates that used their groups."""
    here, used = examples.c, certified_groups.c
    query = (
        sa.select(certifications.c.id, certifications.c.task, certifications.c.bundle, sa.func.count())
        .join(certified_groups, used.certification == certifications.c.id)
        .join(examples, sa.and_(here.task == certifications.c.task, here.group == used.group))
        .where(_examples(whom))
        .group_by(certifications.c.id)
        .order_by(certifications.c.id)
    )
    return [
        Use(kind="certification", id=number, task=task, examples=n, what=bundle[:12] or "no bundle")
        for number, task, bundle, n in connection.execute(query)
    ]
