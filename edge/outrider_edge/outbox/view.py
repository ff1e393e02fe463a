"""How the outbox fares, as status, metrics and people see it. A pure value."""

from msgspec import Struct


class OutboxView(Struct, kw_only=True, frozen=True):
    """Its fill, its bounds, and what is wrong with it."""

    count: int
    """Open entries."""
    bytes: int
    """Their payload that is still held."""
    max_count: int
    max_bytes: int
    max_age_s: int
    free_bytes: int
    """On the disk."""
    min_free_bytes: int
    fault: str
    """Why nothing can be kept now; '' when it can."""
    mended: int
    """Times since the start that a damaged file was put aside."""
    damaged: list[str]
    """Damaged files that lie beside the data."""
    evictions: dict[str, int]
    """What made way since the start, by ``BOUND/WORTH``."""
