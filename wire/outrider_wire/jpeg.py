"""How many passes a JPEG asks for, from its markers alone. Decodes nothing, and believes no length that leads out of the file.

Source: ITU-T T.81, annex B. A progressive picture is decoded anew, whole, for each of its scans: a few bytes a scan keep a decoder
busy for minutes, whatever the picture's size.
"""

import re

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""The next marker that is neither a stuffed byte nor a restart: what ends the coded data of a scan."""
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_ALONE = frozenset({0x01, _SOI})
"""Markers without a length."""
_MOST_MARKERS = 4_096


def scans(data: bytes, *, most: int) -> int:
    """The scans of a JPEG up to its end of image, counted no further than ``most`` + 1; what cannot be followed ends the count.

    Where there seem to be more, what stands behind the end of the image (a film, a depth map) or inside a segment (a thumbnail)
    is told apart, and does not count.
    """
    if (shown := data.count(b"\xff\xda")) <= most:
        return shown  # few enough wherever they stand: walking costs as much as decoding
    at = found = 0
    for _ in range(_MOST_MARKERS):
        marker = _MARKER.search(data, at)
        if marker is None or marker[1][0] == _EOI:
            return found
        at = marker.end()
        if marker[1][0] in _ALONE:
            continue
        found += marker[1][0] == _SOS
        if found > most:
            return found
        at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    return most + 1  # no honest picture has so many segments
