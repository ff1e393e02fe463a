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
    time, chance = f"{unix_ms:012x}", random[:RANDOM_BYTES].hex()
    variant = "89ab"[random[2] >> 4 & 3]
    return f"{time[:8]}-{time[8:]}-7{chance[:3]}-{variant}{chance[5:8]}-{chance[8:]}"
