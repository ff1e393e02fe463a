"""Durations as people write them: ``90s``, ``15m``, ``1h``, ``7d``. Knows no clock."""

import re

from outrider_wire.errors import CallerInputError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> int:
    """The seconds in a whole number with a unit.

    Raises:
        CallerInputError: it is none.
    """
    if not (found := re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())):
        raise CallerInputError(f"{text!r} is no duration", reason="invalid_duration", fix="write 90s, 15m, 1h or 7d")
    return int(found[1]) * _UNITS[found[2]]
