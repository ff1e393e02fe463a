"""From an outbox entry to the escalation on the wire, and what of it travels inline. Pure."""

import hashlib
from collections.abc import Iterable, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from outrider_edge.ports import OutboxEntry, OutboxFull
from outrider_wire.limits import INLINE_BYTES, MESSAGE_BYTES
from outrider_wire.messages import Escalation, FullForm, Part

ENVELOPE_BYTES = 4096
"""Room for topic, properties and everything but the parts' bytes and the distribution."""

_MESSAGE_BYTES = 640
"""Topic, properties, and every field of the message but the parts, the distribution and what has names of its own."""
_PART_BYTES = 200
"""Of one part's description."""
_FULL_BYTES = 180
"""Of the description of a full form beside a first one."""
_BLOCK_BYTES = 256
"""Around each block of a part that is pulled."""


def wire_size(parts: Iterable[tuple[str, int]], *, names: int, labels: int, fulls: int = 0) -> int:
    """Bytes that one escalation puts on the wire, the first time: payload and envelope. An estimate, seldom too low.

    Args:
        parts: name and bytes of each.
        names: letters of the task's name and of the group.
        labels: of the distribution.
        fulls: parts of which a first form is sent; the full one counts when it is pulled.
    """
    size = _MESSAGE_BYTES + names + 9 * labels + _FULL_BYTES * fulls
    for name, length in parts:
        size += _PART_BYTES + len(name) + (length if length <= INLINE_BYTES else pull_size(length))
    return size


def pull_size(length: int) -> int:
    """Bytes that a part of that many puts on the wire when it is pulled."""
    return length + _BLOCK_BYTES * (length // INLINE_BYTES + 1)


def envelope_of(entry: OutboxEntry) -> Escalation:
    """The escalation without the bytes of its parts: every part offered by digest."""
    return Escalation(
        id=entry.id,
        task=entry.task,
        parts=[
            Part(
                name=part.name,
                modality=part.modality,
                media_type=part.media_type,
                size=len(part.data),
                sha256=hashlib.sha256(part.data).hexdigest(),
                full=UNSET if part.full is None else _full_form(part.full),
            )
            for part in entry.parts
        ],
        why=entry.why,
        model=entry.model,
        label=entry.label,
        probabilities=entry.probabilities,
        audit=entry.audit,
        answer_within_ms=entry.answer_within_ms,
        keep_for_s=entry.keep_for_s,
        group=entry.group,
        facts=entry.facts or UNSET,
    )


def fulls_of(entry: OutboxEntry, envelope: Escalation) -> dict[str, bytes]:
    """The full forms behind the parts of which a first one is sent, by digest."""
    return {
        offered.unseen.sha256: part.full.data
        for offered, part in zip(envelope.parts, entry.parts, strict=True)
        if offered.unseen is not None and part.full is not None
    }


def _full_form(full: OutboxFull) -> FullForm:
    return FullForm(media_type=full.media_type, size=len(full.data), sha256=hashlib.sha256(full.data).hexdigest())


def offer_of(
    envelope: Escalation, data: Sequence[bytes | None], *, age_s: float, offer: int, packet_limit: int
) -> Escalation:
    """What to publish now: times reduced by the age, and every part inline that is small enough and fits the packet.

    Args:
        envelope: without the parts' bytes.
        data: the parts' bytes where they are at hand, in the envelope's order.
        age_s: run time since the input was accepted.
        offer: which offer this is, from 1.
        packet_limit: the broker's maximum packet size in bytes.
    """
    room = min(packet_limit, MESSAGE_BYTES) - ENVELOPE_BYTES - 9 * len(envelope.probabilities)
    parts: list[Part] = []
    for part, held in zip(envelope.parts, data, strict=True):
        fits = held is not None and len(held) <= min(INLINE_BYTES, room)
        room -= part.size if fits else 0
        parts.append(replace(part, inline=held) if fits else part)
    return replace(
        envelope,
        parts=parts,
        answer_within_ms=max(0, envelope.answer_within_ms - int(age_s * 1000)),
        keep_for_s=max(0, int(envelope.keep_for_s - age_s)),
        offer=min(offer, 1_000_000),
    )
