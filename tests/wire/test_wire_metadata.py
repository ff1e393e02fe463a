"""Metadata goes, whatever holds it, and every pixel and sample stays as it is."""

import io
import struct
import wave
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from outrider_wire.images import decode_picture, orientation_of
from outrider_wire.metadata import clean_image, clean_wav

MARK = b"GPS-48.137N-11.575E"
"""Stands in everything that must go."""
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6">' + MARK + b"</rdf:Description></x:xmpmeta>"
Coding = Literal["JPEG", "PNG"]


def picture(seed: int = 0, *, mode: str = "RGB", size: tuple[int, int] = (17, 11)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)


def exif(orientation: int | None) -> bytes:
    made = Image.Exif()
    made[0x010F] = MARK.decode()
    if orientation is not None:
        made[0x0112] = orientation
    made.get_ifd(0x8825)[1] = MARK.decode()
    return made.tobytes()


def coded(image: Image.Image, coding: Coding, orientation: int | None = None, **more: object) -> bytes:
    out = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + MARK
    told: dict[str, object] = {"exif": exif(orientation), "icc_profile": profile}
    if coding == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", MARK.decode())
        text.add_text("Comment", MARK.decode(), zip=True)
        text.add_itxt("XML:com.adobe.xmp", XMP.decode() if orientation is None else MARK.decode())
        told["pnginfo"] = text
    else:
        told |= {"comment": MARK, "xmp": XMP if orientation is None else MARK}
    image.save(out, coding, **told | more)
    return out.getvalue()


def pixels(data: bytes, mode: Literal["RGB", "L"] = "RGB") -> np.ndarray:
    return np.asarray(decode_picture(data, part="p", mode=mode, max_pixels=100_000))


def cleaned(data: bytes) -> bytes:
    """As `outrider_wire.leaving` uses it."""
    found = clean_image(data)
    assert found is not None
    turned = orientation_of(data, part="p", max_pixels=100_000) if found.told else 1
    again = clean_image(data, orientation=turned)
    assert again is not None
    return again.data


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.booleans(),
    st.sampled_from([20, 90]),
    st.sampled_from([None, *range(1, 9)]),
)
def test_a_jpeg_keeps_its_pixels_and_nothing_else(
    seed: int, mode: str, progressive: bool, quality: int, orientation: int | None
) -> None:
    data = (
        coded(picture(seed, mode=mode), "JPEG", orientation, quality=quality, progressive=progressive) + b"tail" + MARK
    )
    made = cleaned(data)
    assert MARK in data and MARK not in made and b"http://ns" not in made and b"ICC_PROFILE" not in made
    for how in ("RGB", "L"):
        assert np.array_equal(pixels(made, how), pixels(data, how))
    assert cleaned(made) == made


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "1", "I;16"]),
    st.sampled_from([None, *range(1, 9)]),
)
def test_a_png_keeps_its_pixels_and_nothing_else(seed: int, mode: str, orientation: int | None) -> None:
    image = picture(seed) if mode not in ("RGBA", "LA", "I;16") else picture(seed, mode="L")
    image = image.convert(mode)
    data = coded(image, "PNG", orientation) + b"tail" + MARK
    made = cleaned(data)
    assert MARK in data and MARK not in made and zlib.compress(MARK)[2:-4] not in made
    kinds = chunks(made)
    assert set(kinds) <= {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
    turned = {None: 6, 1: 1}.get(orientation, orientation)
    assert (b"eXIf" in kinds) == (turned != 1)
    for how in ("RGB", "L"):
        assert np.array_equal(pixels(made, how), pixels(data, how))
    assert cleaned(made) == made


def chunks(data: bytes) -> list[bytes]:
    at, found = 8, []
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


def test_an_orientation_that_is_kept_says_nothing_else() -> None:
    made = cleaned(coded(picture(), "JPEG", 6))
    with Image.open(io.BytesIO(made)) as image:
        assert dict(image.getexif()) == {0x0112: 6}
        assert not image.getexif().get_ifd(0x8825)


def test_what_carries_nothing_stays_byte_for_byte() -> None:
    out = io.BytesIO()
    picture().save(out, "PNG")
    assert cleaned(out.getvalue()) == out.getvalue()


def test_a_time_chunk_a_private_chunk_and_a_second_picture_go() -> None:
    out = io.BytesIO()
    picture().save(out, "PNG", save_all=True, append_images=[picture(1)])
    time = chunk(b"tIME", b"\x07\xea\x0b\x1a\x06\x2f\x12")
    data = out.getvalue()[:-12] + time + chunk(b"prVt", MARK) + out.getvalue()[-12:]
    made = cleaned(data)
    assert set(chunks(made)) == {b"IHDR", b"IDAT", b"IEND"}
    assert np.array_equal(pixels(made), pixels(data))
    out = io.BytesIO()
    picture().save(out, "MPO", save_all=True, append_images=[picture(1)])
    made = cleaned(out.getvalue())
    assert b"MPF" not in made and made.count(b"\xff\xd8\xff") == 1
    assert np.array_equal(
        pixels(made), np.asarray(Image.open(out).convert("RGB"))
    )  # as a decoder of such files sees it


def chunk(kind: bytes, said: bytes) -> bytes:
    return struct.pack(">I", len(said)) + kind + said + struct.pack(">I", zlib.crc32(kind + said))


UNSOUND: dict[str, Callable[[], bytes]] = {
    "a JPEG without an end": lambda: coded(picture(), "JPEG")[:-2],
    "a JPEG whose segment runs out of the file": lambda: b"\xff\xd8\xff\xe1\xff\xff" + MARK,
    "a JPEG of fill bytes": lambda: b"\xff\xd8" + b"\xff" * 100_000,
    "a JPEG with bytes between its segments": lambda: b"\xff\xd8" + MARK + coded(picture(), "JPEG")[2:],
    "a PNG without an end": lambda: coded(picture(), "PNG")[:-12],
    "a PNG chunk that runs out of the file": lambda: b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR" + MARK,
    "a PNG with a critical chunk that nobody knows": lambda: coded(picture(), "PNG")[:33] + chunk(b"GPSX", MARK),
    "something else": lambda: b"GIF89a" + MARK,
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_is_not_laid_out_as_its_standard_says_is_not_vouched_for(name: str) -> None:
    assert clean_image(UNSOUND[name]()) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\x00\x00\x00WAVE"]), st.binary(max_size=200))
def test_no_bytes_make_it_fail(head: bytes, tail: bytes) -> None:
    clean_image(head + tail)
    clean_wav(head + tail)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG"]), st.data())
def test_no_damage_makes_it_fail(coding: Coding, data: st.DataObject) -> None:
    whole = bytearray(coded(picture(), coding, 3))
    for _ in range(data.draw(st.integers(1, 5))):
        place = int(data.draw(st.floats(0, 1, exclude_max=True)) * (len(whole) - 2))  # a profile's length varies
        whole[2 + place] = data.draw(st.integers(0, 255))
    clean_image(bytes(whole))


def wav(samples: bytes = b"\x01\x02" * 50, *, more: bytes = b"") -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples)
    body = out.getvalue()[8:] + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", [b"LIST", b"id3 ", b"bext", b"iXML", b"cue "])
def test_a_wav_keeps_its_samples_and_nothing_else(kind: bytes) -> None:
    data = wav(more=kind + struct.pack("<I", len(MARK)) + MARK + b"\x00" * (len(MARK) % 2)) + MARK
    made = clean_wav(data)
    assert made == wav()
    with wave.open(io.BytesIO(made)) as file:
        assert file.readframes(1000) == b"\x01\x02" * 50


def test_a_sound_that_is_no_wav_is_not_vouched_for() -> None:
    assert clean_wav(b"ID3\x04" + MARK) is None
    assert clean_wav(wav()[:-3]) is None
