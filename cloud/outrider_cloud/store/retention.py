"""How long what is stored is kept, and the deleting of what is older. Decides nothing about what is still open.

Inputs that are unanswered and what the account has counted always stay.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from msgspec import Meta, Struct

from outrider_cloud.clock import now_ms
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import forgotten, inputs, references
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.schema import dead_letters, devices, examples
from outrider_cloud.store.store import Store

Days = Annotated[float, Meta(ge=0, le=36_500)]
_DAY_MS = 86_400_000
_UNFINISHED_DAYS = 1.0
"""A file that nothing refers to yet may belong to an input that is just being claimed."""


class Retention(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Days that each kind is kept."""

    examples: Days | None = None
    """What devices sent, with what both models said of it; None: until it is forgotten. Rows that a person imported stay."""
    answers: Days = 1.0
    """Answers and refusals, counted from the moment that nobody wants them any more: until then a repeated question finds
    them, and is not paid for twice."""
    dead_letters: Days = 30.0
    telemetry: Days = 90.0
    """The last telemetry of a device that has fallen silent."""


class Keeper:
    """Applies a `Retention`."""

    def __init__(
        self, *, store: Store, blobs: BlobStore, tidy: Callable[[float], None], retention: Retention, metrics: Metrics
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._tidy = tidy
        self._retention = retention
        self._metrics = metrics

    async def keep(self) -> dict[str, int]:
        """Deletes what is older; how much of each kind."""
        now = now_ms()
        gone = await self._store.write(partial(delete_older, retention=self._retention, now_ms=now))
        before_s = (now - _UNFINISHED_DAYS * _DAY_MS) / 1000
        await asyncio.to_thread(self._tidy, now / 1000)
        gone["blobs"] = await self._store.read(partial(sweep, blobs=self._blobs, before_s=before_s))
        for what, count in gone.items():
            self._metrics.deleted.labels(what).inc(count)
        return gone


def delete_older(connection: sa.Connection, *, retention: Retention, now_ms: int) -> dict[str, int]:
    """Deletes rows that are older than they may be; how many of each kind."""

    def before(days: float) -> int:
        return now_ms - round(days * _DAY_MS)

    gone = {"inputs": inputs.forget(connection, before_ms=before(retention.answers))}
    if retention.examples is not None:
        sent = (examples.c.source != "import", examples.c.created_ms < before(retention.examples))
        gone["examples"] = connection.execute(sa.delete(examples).where(*sent)).rowcount
        gone["payloads"] = references.delete_payloads(connection) if gone["examples"] else 0
    old_letters = dead_letters.c.received_ms < before(retention.dead_letters)
    gone["dead_letters"] = connection.execute(sa.delete(dead_letters).where(old_letters)).rowcount
    gone["forgotten"] = forgotten.delete_older(connection, before_ms=now_ms - forgotten.KEPT_MS)
    silent = (devices.c.seen_ms < before(retention.telemetry), sa.cast(devices.c.telemetry, sa.Text) != "{}")
    gone["telemetry"] = connection.execute(sa.update(devices).where(*silent).values(telemetry={})).rowcount
    return gone


def sweep(connection: sa.Connection, *, blobs: BlobStore, before_s: float) -> int:
    """Deletes files that nothing refers to and that have lain there since ``before_s``; how many."""
    known, gone = references.files(connection), 0
    for path in blobs.all():
        if path.name not in known and _older(path, before_s):  # looked at last: an input may just be claiming it anew
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def _older(path: Path, before_s: float) -> bool:
    try:
        return path.stat().st_mtime < before_s
    except FileNotFoundError:
        return False
