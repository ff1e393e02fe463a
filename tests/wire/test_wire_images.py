"""Hostile pictures, case by case; and the odd but honest ones, which come out right."""

from typing import Any

import numpy as np
import pytest
from hostile_pictures import HOSTILE, JPEG, NOISE, PNG, jpeg_of_scans, saved
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from outrider_wire.errors import CallerInputError
from outrider_wire.images import SCANS, decode_picture
from outrider_wire.jpeg import scans
from outrider_wire.limits import IMAGE_PIXELS


def decoded(data: bytes, max_pixels: int = IMAGE_PIXELS) -> np.ndarray:
    return np.asarray(decode_picture(data, part="image", mode="RGB", max_pixels=max_pixels))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_get_their_reason(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(CallerInputError) as caught:
        decoded(data)
    assert (caught.value.reason, caught.value.part) == (reason, "image")
    assert caught.value.fix


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_gets_the_same_reason_where_warnings_are_errors() -> None:
    with pytest.raises(CallerInputError) as caught:
        decoded(HOSTILE["a header of 100 million pixels"][0])
    assert caught.value.reason == "too_many_pixels"


@given(st.data(), st.sampled_from([PNG, JPEG]))
def test_a_damaged_picture_is_decoded_or_refused_and_nothing_else(data: st.DataObject, picture: bytes) -> None:
    damaged = bytearray(picture)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(700, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    try:
        pixels = decoded(bytes(damaged[:cut]) if data.draw(st.booleans()) else bytes(damaged))
        assert pixels.shape[2] == 3
    except CallerInputError as error:
        assert error.reason in {"not_an_image", "damaged_image", "too_many_pixels"}


def test_exactly_as_many_pixels_as_allowed_are_fine() -> None:
    assert decoded(PNG, max_pixels=64 * 64).shape == (64, 64, 3)


CORNER = Image.new("RGB", (3, 2))
CORNER.putpixel((0, 0), (255, 255, 255))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "shape", "corner"),
    [
        (1, (2, 3), (0, 0)),
        (2, (2, 3), (0, 2)),
        (3, (2, 3), (1, 2)),
        (4, (2, 3), (1, 0)),
        (5, (3, 2), (0, 0)),
        (6, (3, 2), (0, 1)),
        (7, (3, 2), (2, 1)),
        (8, (3, 2), (2, 0)),
        (99, (2, 3), (0, 0)),
    ],
)
def test_a_picture_is_turned_upright(
    kind: str, orientation: int, shape: tuple[int, int], corner: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    grey = decoded(saved(CORNER, kind, exif=exif, **options)).mean(axis=2)
    assert grey.shape == shape
    assert np.unravel_index(grey.argmax(), shape) == corner


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"progressive": True, "exif": Image.Exif()}])
def test_a_jpeg_asks_for_its_passes(options: dict[str, Any]) -> None:
    whole = saved(NOISE, "JPEG", **options)
    assert scans(whole, most=SCANS) == whole.count(b"\xff\xda") == (10 if options else 1)


def test_what_lies_inside_or_behind_a_picture_is_no_pass_of_it() -> None:
    """A thumbnail in a segment, a film after the end of the image."""
    thumbnail = b"\xff\xe5" + (2 + 2 * 900).to_bytes(2, "big") + b"\xff\xda" * 900
    honest = JPEG[:2] + thumbnail + JPEG[2:] + b"\xff\xda" * 10_000
    assert scans(honest, most=SCANS) == 1
    assert decoded(honest).shape == (64, 64, 3)


@pytest.mark.parametrize("passes", [SCANS, SCANS + 1, 5_000])
def test_the_passes_of_a_bomb_are_counted_though_its_segments_hide_an_end(passes: int) -> None:
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    bomb = jpeg_of_scans(passes).replace(b"\xff\xda", comment + b"\xff\xda")
    assert scans(bomb, most=SCANS) == min(passes, SCANS + 1)


@given(st.binary(max_size=300))
def test_any_bytes_have_some_number_of_passes(data: bytes) -> None:
    assert 0 <= scans(b"\xff\xd8" + data, most=SCANS) <= SCANS + 1


def test_countless_segments_are_too_many() -> None:
    assert scans(b"\xff\xfe\x00\x02" * 10_000 + b"\xff\xda" * 100, most=SCANS) == SCANS + 1


def test_transparency_is_dropped() -> None:
    assert decoded(saved(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), "PNG"))[0, 0].tolist() == [10, 20, 30]


def test_a_palette_with_transparency_becomes_its_colours() -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert decoded(saved(image, "PNG", transparency=b"\x00\x80"))[0, 0].tolist() == [10, 20, 30]


def test_grey_becomes_three_equal_channels() -> None:
    assert decoded(saved(Image.new("L", (1, 1), 77), "PNG"))[0, 0].tolist() == [77] * 3


def test_black_and_white_becomes_0_and_255() -> None:
    assert decoded(saved(Image.new("1", (1, 1), 1), "PNG"))[0, 0].tolist() == [255] * 3


def test_16_bit_grey_keeps_its_upper_byte() -> None:
    image = Image.fromarray(np.full((1, 1), 0x8042, np.uint16))
    assert decoded(saved(image, "PNG"))[0, 0].tolist() == [0x80] * 3


def test_cmyk_becomes_rgb() -> None:
    pixels = decoded(saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))
    assert pixels.min() > 250


def test_an_animation_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (2, 2), (9, 9, 9)), Image.new("RGB", (2, 2), (200, 9, 9))
    assert decoded(saved(first, "PNG", save_all=True, append_images=[second]))[0, 0].tolist() == [9, 9, 9]


def test_grey_mode_gives_one_channel() -> None:
    image = decode_picture(PNG, part="image", mode="L", max_pixels=IMAGE_PIXELS)
    assert (image.mode, image.size) == ("L", (64, 64))
