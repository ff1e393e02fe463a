"""Pictures and sounds without what is said about them: EXIF, XMP, IPTC, profiles, comments, whatever follows the end.

Works on the bytes of the container, so that every pixel and sample stays as it is. Decodes nothing.

What is kept is a list of what a decoder needs (JPEG: ITU-T T.81 table B.1; PNG: ISO/IEC 15948 critical chunks and ``tRNS``;
WAV: ``fmt``, ``fact``, ``data``); everything else goes. Two application segments of a JPEG say how its colours are coded
(JFIF, Adobe): they are written anew with that alone in them. The orientation changes what a picture shows, and is the one
thing of EXIF that is written anew. What somebody hid inside the coded pixels themselves is not looked for.
"""

import re
import struct
import zlib
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_PNG_TOLD = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
"""Chunks that may name an orientation."""
_SOI, _EOI, _SOS, _APP0, _APP1, _APP14, _APP15, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_JPEG_KEPT = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, _SOS} - {0xC8})
"""Frames, scans, tables, restart intervals."""
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""The next marker that is no restart and no escaped 0xFF."""
_WAV_KEPT = frozenset({b"fmt ", b"fact", b"data"})
_TURN_TAG = 0x0112


class Cleaned(NamedTuple):
    """A file without metadata."""

    data: bytes
    told: bool
    """Something went that may have named an orientation."""


def clean_image(data: bytes, *, orientation: int = 1) -> Cleaned | None:
    """A JPEG or PNG without metadata, but for ``orientation`` (EXIF tag 0x0112) where it is not 1.

    None: it is neither, or not laid out as its standard says, so that its end cannot be told.
    """
    if data.startswith(_PNG):
        return _clean_png(data, orientation)
    if data.startswith(b"\xff\xd8"):
        return _clean_jpeg(data, orientation)
    return None


def clean_wav(data: bytes) -> bytes | None:
    """A WAV file with its format and its samples alone; None: it is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    kept: list[bytes] = []
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            return None
        if data[at : at + 4] in _WAV_KEPT:
            kept += [data[at : at + 8 + length], b"\x00" * (length % 2)]
        at += 8 + length + length % 2
    body = b"".join([b"WAVE", *kept])
    if b"fmt " not in {chunk[:4] for chunk in kept} or b"data" not in {chunk[:4] for chunk in kept}:
        return None
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _clean_png(data: bytes, orientation: int) -> Cleaned | None:
    kept, told, at = [_PNG], False, len(_PNG)
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return None
        if kind == b"IEND":
            return Cleaned(b"".join([*kept, _chunk(b"IEND", b"")]), told)
        if kind in _PNG_KEPT:
            kept.append(data[at:end])
            if kind == b"IHDR" and orientation != 1:
                kept.append(_chunk(b"eXIf", _exif(orientation)))
        elif not kind[0] & 0x20:
            return None  # a critical chunk that no standard knows
        told = told or kind in _PNG_TOLD
        at = end
    return None


def _clean_jpeg(data: bytes, orientation: int) -> Cleaned | None:
    head: list[bytes] = []
    body: list[bytes] = []
    told, at = False, 2
    while (found := _segment(data, at)) is not None:
        marker, start, at = found
        if marker == _EOI:
            turn = _app1(orientation) if orientation != 1 else b""
            return Cleaned(b"".join([b"\xff\xd8", *head, turn, *body, b"\xff\xd9"]), told)
        if marker in _JPEG_KEPT:
            body.append(data[start - 2 : at])
        elif _APP0 <= marker <= _APP15:
            head.append(_colours(marker, data[start + 2 : at]))
            told = told or marker == _APP1
        elif marker != _COM:
            return None
        if marker == _SOS:
            if (following := _AFTER_SCAN.search(data, at)) is None:
                return None
            body.append(data[at : following.start()])
            at = following.start()
    return None


def _segment(data: bytes, at: int) -> tuple[int, int, int] | None:
    """The marker at ``at``, where its length stands, and where the segment ends; None: there is none, or it is cut off."""
    if data[at : at + 1] != b"\xff":
        return None
    while data[at + 1 : at + 2] == b"\xff":
        at += 1
    if at + 2 > len(data):
        return None
    marker, start = data[at + 1], at + 2
    if marker == _EOI:
        return marker, start, start
    length = int.from_bytes(data[start : start + 2], "big")
    if length < 2 or start + length > len(data):
        return None
    return marker, start, start + length


def _colours(marker: int, said: bytes) -> bytes:
    """What an application segment says of how colours are coded, and nothing else; '' where it says nothing of that."""
    if marker == _APP0 and said.startswith(b"JFIF\x00") and len(said) >= 14:
        return _JFIF
    if marker == _APP14 and said.startswith(b"Adobe") and len(said) >= 12:
        return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + said[11:12]
    return b""


def _exif(orientation: int) -> bytes:
    """A TIFF block with one entry."""
    return b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, _TURN_TAG, 3, 1, orientation, 0, 0)


def _app1(orientation: int) -> bytes:
    said = b"Exif\x00\x00" + _exif(orientation)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(said)) + said


def _chunk(kind: bytes, said: bytes) -> bytes:
    return struct.pack(">I", len(said)) + kind + said + struct.pack(">I", zlib.crc32(kind + said))
