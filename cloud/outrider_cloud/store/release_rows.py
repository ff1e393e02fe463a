"""Releases and who they are assigned to, in the store. Functions of a connection."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from outrider_cloud.store.portable import insert
from outrider_cloud.store.schema import assignments, devices, release_files, releases
from outrider_wire.errors import CallerUnknownError
from outrider_wire.manifest import Manifest
from outrider_wire.messages import Assignment


def row_of(manifest: Manifest, *, digest: str, size: int, stamp_ms: int) -> dict[str, Any]:
    """A release's row.

    Args:
        manifest: Of its bundle.
        digest: SHA-256 of the manifest's bytes.
        size: Bytes of the manifest.
        stamp_ms: UTC.
    """
    return {
        "digest": digest,
        "task": manifest.task,
        "version": manifest.version,
        "size": size,
        "parent": manifest.parent,
        "certificate": manifest.certificate.id if manifest.certificate else "",
        "created_ms": stamp_ms,
    }


def add(connection: sa.Connection, *, row: dict[str, Any], files: Mapping[str, int]) -> None:
    """Stores a release and its files; one that is there stays as it is."""
    connection.execute(insert(releases).values(row).on_conflict_do_nothing())
    rows = [{"release": row["digest"], "sha256": sha256, "size": size} for sha256, size in files.items()]
    connection.execute(insert(release_files).on_conflict_do_nothing(), rows)


def remove(connection: sa.Connection, *, digests: Sequence[str]) -> set[str]:
    """Removes releases that nothing names any more; the digests of the files that they had."""
    files: set[str] = set()
    for digest in digests:
        of_it = release_files.c.release == digest
        files.update(connection.execute(sa.select(release_files.c.sha256).where(of_it)).scalars())
        connection.execute(sa.delete(release_files).where(of_it))
        connection.execute(sa.delete(releases).where(releases.c.digest == digest))
    return files


def assign(connection: sa.Connection, *, digest: str, to: Sequence[str] | None, stamp_ms: int) -> dict[str, int]:
    """Stores the assignment of a release to devices; the counter of each has grown by one."""
    task = connection.execute(sa.select(releases.c.task).where(releases.c.digest == digest)).scalar_one_or_none()
    if task is None:
        raise CallerUnknownError(f"there is no release {digest}", reason="unknown_release", fix="add it first")
    known = set(connection.execute(sa.select(devices.c.device)).scalars())
    wanted = sorted(known) if to is None else list(dict.fromkeys(to))
    if strangers := [device for device in wanted if device not in known]:
        raise CallerUnknownError(
            f"no device {strangers[0]!r} was ever heard of", reason="unknown_device", fix="start its agent first"
        )
    counters: dict[str, int] = {}
    for device in wanted:
        row = {"device": device, "task": task, "release": digest, "counter": 1, "assigned_ms": stamp_ms}
        counters[device] = connection.execute(
            insert(assignments)
            .values(row)
            .on_conflict_do_update(
                index_elements=["device", "task"],
                set_={"release": digest, "counter": assignments.c.counter + 1, "assigned_ms": stamp_ms},
            )
            .returning(assignments.c.counter)
        ).scalar_one()
    return counters


def assigned_to(connection: sa.Connection, *, device: str) -> list[Assignment]:
    """What one device should hold."""
    rows = connection.execute(
        sa.select(assignments.c.task, assignments.c.release, releases.c.size, assignments.c.counter)
        .join(releases, releases.c.digest == assignments.c.release)
        .where(assignments.c.device == device)
        .order_by(assignments.c.task)
    )
    return [Assignment(task=row.task, release=row.release, size=row.size, counter=row.counter) for row in rows]


def listed(connection: sa.Connection) -> list[dict[str, Any]]:
    """All releases, newest first."""
    by_release = sa.select(assignments.c.release, sa.func.count()).group_by(assignments.c.release)
    assigned = {row[0]: row[1] for row in connection.execute(by_release)}
    rows = connection.execute(sa.select(releases).order_by(releases.c.created_ms.desc())).mappings()
    return [{**row, "devices": assigned.get(row["digest"], 0)} for row in rows]


def may_have_delta(connection: sa.Connection, *, device: str, base: str, target: str) -> bool:
    """Whether a release that is assigned to the device holds the file ``target``, and one of the same task the file ``base``;
    both digests, or how they begin."""
    ours, theirs = release_files.alias(), release_files.alias()
    assigned, other = releases.alias(), releases.alias()
    found = connection.execute(
        sa.select(ours.c.release)
        .join(assignments, assignments.c.release == ours.c.release)
        .join(assigned, assigned.c.digest == ours.c.release)
        .join(other, other.c.task == assigned.c.task)
        .join(theirs, theirs.c.release == other.c.digest)
        .where(assignments.c.device == device, ours.c.sha256.startswith(target), theirs.c.sha256.startswith(base))
        .limit(1)
    )
    return found.first() is not None


def is_assigned(connection: sa.Connection, *, device: str, sha256: str) -> bool:
    """Whether a release that is assigned to the device holds this blob."""
    found = connection.execute(
        sa.select(release_files.c.release)
        .join(assignments, assignments.c.release == release_files.c.release)
        .where(assignments.c.device == device, release_files.c.sha256 == sha256)
        .limit(1)
    )
    return found.first() is not None
