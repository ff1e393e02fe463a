"""Which payloads and files something still refers to. Functions of a connection; deletes only what nothing names.

An example names its parts, a release its files, and an unanswered escalation those parts that it did not bring along.
"""

from collections.abc import Collection

import sqlalchemy as sa

from outrider_cloud.store.portable import values_of
from outrider_cloud.store.schema import examples, inputs, payloads, release_files
from outrider_wire.codec import decode
from outrider_wire.errors import PeerError
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Escalation

_PART = values_of(examples.c.parts)
_NAMED = sa.select(_PART.c.value).select_from(examples).join(_PART, sa.true())


def delete_payloads(connection: sa.Connection) -> int:
    """Deletes the payloads that no example names; how many."""
    return connection.execute(sa.delete(payloads).where(payloads.c.sha256.not_in(_NAMED))).rowcount


def files(connection: sa.Connection) -> set[str]:
    """SHA-256 of every file of the blob store that something refers to."""
    named = set(connection.execute(_NAMED).scalars())
    named.update(connection.execute(sa.select(release_files.c.sha256)).scalars())
    open_requests = sa.select(inputs.c.request).where(inputs.c.state == "claimed", inputs.c.request.is_not(None))
    for request in connection.execute(open_requests).scalars():
        named.update(parts_of(request))
    return named


def unnamed(connection: sa.Connection, digests: Collection[str]) -> set[str]:
    """Those of ``digests`` that nothing refers to."""
    return set(digests) - files(connection) if digests else set()


def parts_of(request: bytes) -> set[str]:
    """What an escalation, as it is stored, names; nothing where it cannot be read."""
    try:
        escalation = decode(request, limit=BLOB_BYTES)
    except PeerError:
        return set()
    return escalation.digests if isinstance(escalation, Escalation) else set()
