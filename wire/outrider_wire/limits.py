"""Bounds on what crosses the wire or is read from a file. Every one is a default that a caller may lower, never raise silently."""

WIRE_VERSION = 1
SERVED_VERSIONS = tuple(v for v in (WIRE_VERSION - 1, WIRE_VERSION) if v >= 1)
"""The cloud serves its own wire version and the one before."""

INLINE_BYTES = 64 * 1024
"""A part up to this size travels inside its escalation; above, it is offered by digest and pulled."""

BLOCK_BYTES = 64 * 1024
BLOB_BYTES = 256 * 1024 * 1024
MESSAGE_BYTES = 1024 * 1024
"""Largest message either side will decode, whatever the broker would carry."""

PARTS = 16
LABELS = 4096
ENTRIES = 64
"""Of any list or table in which a device describes itself."""
PART_BYTES = 32 * 1024 * 1024
IMAGE_PIXELS = 4_000_000
MANIFEST_BYTES = 4 * 1024 * 1024
MODEL_BYTES = 512 * 1024 * 1024
BUNDLE_FILES = 256
