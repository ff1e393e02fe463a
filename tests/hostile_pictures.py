"""Hostile pictures, each with the reason that it is refused for: the rows that images, steps, decoder and daemons are tested with."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file by hand, with whatever header and chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG that asks for that many passes over its pixels; the last ones bring nothing new."""
    whole = saved(Image.new("RGB", (512, 512)), "JPEG", progressive=True)
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:end] + whole[last:end] * (scans - whole.count(b"\xff\xda")) + whole[end:]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
PNG, JPEG = saved(NOISE, "PNG"), saved(NOISE, "JPEG")
BOMB = zlib.compress(bytes(50_000_000), 9)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not_an_image"),
    "a text": (b"hello, world" * 20, "not_an_image"),
    "only the first bytes of a PNG": (PNG[:8], "not_an_image"),
    "only the first bytes of a JPEG": (JPEG[:3], "not_an_image"),
    "a truncated PNG": (PNG[: len(PNG) // 2], "damaged_image"),
    "a truncated JPEG": (JPEG[: len(JPEG) // 2], "damaged_image"),
    "a PNG with a damaged pixel stream": (PNG[:2000] + b"\x00" * 500 + PNG[2500:], "damaged_image"),
    "a GIF": (saved(NOISE, "GIF"), "not_an_image"),
    "a BMP": (saved(NOISE, "BMP"), "not_an_image"),
    "a TIFF": (saved(NOISE, "TIFF"), "not_an_image"),
    "a WebP": (saved(NOISE, "WEBP"), "not_an_image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "a header of 900 million pixels": (png(30_000, 30_000, chunk(b"IDAT", zlib.compress(b"\0"))), "too_many_pixels"),
    "a header of 100 million pixels": (png(10_000, 10_000, chunk(b"IDAT", zlib.compress(b"\0"))), "too_many_pixels"),
    "a header of 4 billion a side": (png(2**31 - 1, 2**31 - 1), "too_many_pixels"),
    "one pixel more than is allowed": (png(2001, 2000, chunk(b"IDAT", zlib.compress(b"\0"))), "too_many_pixels"),
    "no width": (png(0, 4), "not_an_image"),
    "no pixels at all": (png(4, 4), "damaged_image"),
    "a bit depth that does not exist": (png(4, 4, depth=7), "not_an_image"),
    "a comment that unpacks to 50 MB": (png(4, 4, chunk(b"zTXt", b"c\0\0" + BOMB)), "not_an_image"),
    "a colour profile that unpacks to 50 MB": (png(4, 4, chunk(b"iCCP", b"c\0\0" + BOMB)), "not_an_image"),
    "a JPEG of two pictures (MPO)": (saved(NOISE, "MPO", save_all=True, append_images=[NOISE]), "not_an_image"),
    "a JPEG of 5,000 passes": (jpeg_of_scans(5_000), "too_many_scans"),
    "a chunk that claims 2 GiB": (png(4, 4)[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT", "damaged_image"),
}  # fmt: skip
