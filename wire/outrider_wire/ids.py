"""Ids of inputs: UUIDv7 (RFC 9562, §5.7), which sort by time. Knows no clock and no randomness: both are arguments."""

RANDOM_BYTES = 10


def uuid7(unix_ms: int, random: bytes) -> str:
    """The UUIDv7 of a Unix time in milliseconds and at least `RANDOM_BYTES` random bytes, in its usual text form.

    Raises:
        ValueError: the time does not fit 48 bits, or there is too little randomness.
    """
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError(f"{unix_ms} is not a Unix time in milliseconds")
    if len(random) < RANDOM_BYTES:
        raise ValueError(f"{len(random)} random bytes, and {RANDOM_BYTES} are needed")
    bits = int.from_bytes(random[:RANDOM_BYTES], "big")
    first, rest = bits >> 68, bits & ((1 << 62) - 1)
    text = f"{unix_ms << 80 | 0x7 << 76 | first << 64 | 0b10 << 62 | rest:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
