"""A picture made less: cropped, blurred, compressed, small. Knows Pillow, and nothing of who asked for it or why."""

import io
from collections.abc import Sequence
from typing import Literal

from PIL import Image, ImageFilter

from outrider_wire.errors import CallerInputError
from outrider_wire.images import area, decode_picture, orientation_of
from outrider_wire.metadata import clean_image

Box = Sequence[float]
Coding = Literal["PNG", "JPEG"]
KEPT_QUALITY = 92
"""Of a JPEG that is coded anew because part of it must not leave, or because it lies on its side."""


def cropped(image: Image.Image, box: Box) -> Image.Image:
    """The inside of ``box`` (shares of width and height), a pixel at least."""
    return image.crop(_pixels(image, box))


def blurred(image: Image.Image, radius: float, boxes: Sequence[Box]) -> Image.Image:
    """Blurred inside ``boxes``, or everywhere without one; ``radius`` as a share of the longer side.

    What lies outside a box does not bleed into it, nor the reverse.
    """
    blur = ImageFilter.GaussianBlur(radius * max(image.size))
    if not boxes:
        return image.filter(blur)
    made = image.copy()
    for box in boxes:
        place = _pixels(image, box)
        made.paste(made.crop(place).filter(blur), place)
    return made


def upright(data: bytes, *, max_pixels: int) -> bytes:
    """The same picture with its orientation in the pixels, for who may not heed the tag; byte for byte where there is none.

    What cannot be read stays as it is: whoever is given it will say so.
    """
    try:
        found = clean_image(data)
        if found is None or not found.told or orientation_of(data, part="", max_pixels=max_pixels) == 1:
            return data
        return coded(decode_picture(data, part="", mode="RGB", max_pixels=max_pixels), coding_of(data))
    except CallerInputError:
        return data


def small(image: Image.Image, side: int) -> Image.Image:
    """At most ``side`` pixels long and high, each the mean of what falls into it; one that is smaller stays as it is."""
    longer = max(image.size)
    if longer <= side:
        return image
    return area(image, (max(1, round(image.width * side / longer)), max(1, round(image.height * side / longer))))


def coded(image: Image.Image, coding: Coding, *, quality: int = KEPT_QUALITY) -> bytes:
    """The bytes of a file without metadata; ``quality`` of a JPEG."""
    out = io.BytesIO()
    plain = Image.frombytes(
        image.mode, image.size, image.tobytes()
    )  # Pillow writes along what it has read beside pixels
    if coding == "JPEG":
        plain.save(out, "JPEG", quality=quality)
    else:
        plain.save(out, "PNG")
    return out.getvalue()


def coding_of(data: bytes) -> Coding:
    """How a picture is coded, by its first bytes."""
    return "PNG" if data.startswith(b"\x89PNG") else "JPEG"


def _pixels(image: Image.Image, box: Box) -> tuple[int, int, int, int]:
    left, top = (int(share * side) for share, side in zip(box[:2], image.size, strict=True))
    right, bottom = (-int(-share * side // 1) for share, side in zip(box[2:], image.size, strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)
