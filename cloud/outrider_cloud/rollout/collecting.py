"""Which releases of the store nothing needs any more, and their removal. `judge` is pure; the others are functions of a connection.

All that writes to the store does so one after the other: what is judged and removed in one transaction cannot be taken up by a rollout
in between. A rollout that begins later finds the release gone, and is refused.
"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.learning import rounds
from outrider_cloud.rollout.states import ACTS, STATES
from outrider_cloud.store import references, release_rows, rollouts
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.schema import assignments, devices, release_files, releases

KEEP = 2
"""So many of a task's newest releases stay in any case."""
NEW_MS = 86_400_000
"""A release that came less long ago may be about to be signed."""


class Row(Struct, kw_only=True, frozen=True):
    """A release."""

    digest: str
    task: str
    version: str
    created_ms: int


class Needs(Struct, kw_only=True, frozen=True):
    """Releases by what needs them."""

    held: frozenset[str] = frozenset()
    """A device runs them, or is on its way to them."""
    assigned: frozenset[str] = frozenset()
    planned: frozenset[str] = frozenset()
    """Rollouts that still order devices to them."""
    back: frozenset[str] = frozenset()
    """Rollouts may return to them: as their plan says, or because a device ran them before."""
    signed: frozenset[str] = frozenset()
    """A new plan may name them."""
    promoted: frozenset[str] = frozenset()
    """The learning loop has just made them."""


class Judged(Struct, kw_only=True, frozen=True):
    """A release and why it stays; '' where nothing needs it."""

    digest: str
    task: str
    version: str
    bytes: int
    """Of files that it alone has; what goes together is counted together."""
    why: str
    returned: bool = False
    """Whether a rollout may return to it: then it must stay signed too."""


class Collected(Struct, kw_only=True, frozen=True):
    """What a collection came to, or would."""

    releases: list[Judged]
    files: int
    bytes: int


def judge(rows: Sequence[Row], needs: Needs, *, keep: int, now_ms: int) -> dict[str, str]:
    """Why each release stays, by digest; '' where nothing needs it. Pure.

    Args:
        rows: All releases, the newest first.
        needs: What needs them.
        keep: So many of each task's newest stay.
        now_ms: UTC.
    """
    place: dict[str, int] = {}
    why: dict[str, str] = {}
    reasons: tuple[tuple[str, Callable[[Row], bool]], ...] = (
        ("a device holds it", lambda each: each.digest in needs.held),
        ("a device should hold it", lambda each: each.digest in needs.assigned),
        ("a rollout names it", lambda each: each.digest in needs.planned),
        ("a rollout may return to it", lambda each: each.digest in needs.back),
        ("it is signed", lambda each: each.digest in needs.signed),
        ("a learning round has promoted it", lambda each: each.digest in needs.promoted),
        (f"one of the {keep} newest", lambda each: place[each.task] <= keep),
        ("it came today", lambda each: each.created_ms > now_ms - NEW_MS),
    )
    for each in rows:
        place[each.task] = place.get(each.task, 0) + 1
        why[each.digest] = next((reason for reason, needed in reasons if needed(each)), "")
    return why


def survey(connection: sa.Connection, *, signed: frozenset[str], keep: int, now_ms: int) -> Collected:
    """All releases, judged as the store is now."""
    found = connection.execute(sa.select(releases).order_by(releases.c.created_ms.desc(), releases.c.digest))
    rows = [Row(**{name: row[name] for name in Row.__struct_fields__}) for row in found.mappings()]
    needs = _needs(connection, signed, {row.task for row in rows}, now_ms)
    why = judge(rows, needs, keep=keep, now_ms=now_ms)
    sizes: dict[str, dict[str, int]] = {}
    staying: set[str] = set()
    for file in connection.execute(sa.select(release_files)):
        sizes.setdefault(file.release, {})[file.sha256] = file.size
        staying |= {file.sha256} if why[file.release] else set()
    going = {sha256: size for digest, files in sizes.items() if not why[digest] for sha256, size in files.items()}
    going = {sha256: size for sha256, size in going.items() if sha256 not in staying}
    return Collected(
        releases=[
            Judged(
                digest=row.digest,
                task=row.task,
                version=row.version,
                bytes=sum(size for sha256, size in sizes.get(row.digest, {}).items() if sha256 in going),
                why=why[row.digest],
                returned=row.digest in needs.back,
            )
            for row in rows
        ],
        files=len(going),
        bytes=sum(going.values()),
    )


def collect(connection: sa.Connection, *, signed: frozenset[str], keep: int, now_ms: int) -> tuple[Collected, set[str]]:
    """Judges, and removes the rows of what nothing needs, in this one transaction; also the digests of its files."""
    found = survey(connection, signed=signed, keep=keep, now_ms=now_ms)
    going = [each.digest for each in found.releases if not each.why]
    return found, release_rows.remove(connection, digests=going)


def sweep(connection: sa.Connection, *, blobs: BlobStore, digests: set[str]) -> int:
    """Removes those of these files that nothing names, in a writing transaction after the one that removed their rows."""
    gone = [path for each in references.unnamed(connection, digests) if (path := blobs.find(each)) is not None]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def _needs(connection: sa.Connection, signed: frozenset[str], tasks: set[str], now_ms: int) -> Needs:
    slots = connection.execute(sa.select(devices.c.slots)).scalars()
    held = {str(slot.get(name, "")) for row in slots for slot in row.values() for name in ("running", "offered")}
    planned: set[str] = set()
    back: set[str] = set()
    for kept in rollouts.all_of(connection):
        plan, state = kept.plan, kept.progress.state
        if now_ms >= plan.expires_ms:
            continue  # no device obeys an order of it
        if STATES[state].orders or not STATES[state].over:
            planned |= {each.release for each in plan.releases}
        if state in ACTS["rollback"] or not STATES[state].over:
            back |= {each.release for each in plan.rollback_to}
            members = rollouts.members_of(connection, rollout=plan.rollout).values()
            back |= {release for each in members for release in each.before.values()}
    promoted = (rounds.newest_promoted(connection, task=task) for task in tasks)
    return Needs(
        held=frozenset(held),
        assigned=frozenset(connection.execute(sa.select(assignments.c.release)).scalars()),
        planned=frozenset(planned),
        back=frozenset(back),
        signed=signed,
        promoted=frozenset(each[1] for each in promoted if each is not None),
    )
