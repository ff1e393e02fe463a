"""Picture bytes to pixels, distrustfully. Knows Pillow, and nothing of tasks, bundles or steps."""

import io
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outrider_wire.errors import CallerInputError
from outrider_wire.jpeg import scans

FORMATS = ("JPEG", "PNG")
"""The only decoders that hostile bytes ever reach. A multi-picture JPEG (MPO) is none: its decoder follows offsets in the file."""
SCANS = 32
"""Passes over the whole picture that a JPEG may ask for: an honest progressive one has about ten, and each costs a decode."""

Mode = Literal["RGB", "L"]

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (Exif 2.32, tag 0x0112)."""


class Decode(Protocol):
    """Whoever turns a picture's bytes into pixels: `decode_picture`, or what calls it in a limited process."""

    def __call__(self, data: bytes | str, *, part: str, mode: Mode, max_pixels: int) -> Image.Image:
        """As `decode_picture`."""
        ...


def decode_picture(data: bytes | str, *, part: str, mode: Mode, max_pixels: int) -> Image.Image:
    """The picture in ``data``, upright, in ``mode``, fully decoded.

    Raises:
        CallerInputError: text instead of bytes, not a JPEG or PNG, more than ``max_pixels`` by its header or `SCANS` by its
            bytes (judged before a pixel is decoded), or damaged.
    """
    data = picture_bytes(data, part)
    image = _opened(data, part, max_pixels)
    if image.format == "JPEG" and scans(data, most=SCANS) > SCANS:
        raise _refused(part, f"asks for more than {SCANS} passes", "too_many_scans", "send a baseline JPEG")
    try:
        image.load()
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        plain = image if image.mode == mode else _converted(image, mode)
        return plain.transpose(turn) if turn is not None else plain
    except MemoryError as error:
        raise out_of_memory(part) from error
    except Exception as error:  # Pillow names no set of errors that its decoders raise on hostile bytes
        raise _refused(part, f"is a damaged picture ({error})"[:300], "damaged_image", "send the file again") from error


def picture_bytes(data: bytes | str, part: str) -> bytes:
    """``data`` itself.

    Raises:
        CallerInputError: it is text.
    """
    if isinstance(data, str):
        raise _refused(part, "is text, not a picture", "wrong_type", "send the bytes of a JPEG or PNG file")
    return data


def out_of_memory(part: str) -> CallerInputError:
    """The refusal of a picture whose decoding takes more memory than there is for it."""
    return _refused(part, "takes more memory than a picture may", "picture_memory", "send a smaller picture")


def orientation_of(data: bytes, *, part: str, max_pixels: int) -> int:
    """The EXIF orientation (1 to 8) that `decode_picture` undoes, as far as it is named before the pixels; errors as there."""
    image = _opened(data, part, max_pixels)
    try:
        named = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # as above
        raise _refused(part, f"is a damaged picture ({error})"[:300], "damaged_image", "send the file again") from error
    return named if named in _UPRIGHT else 1


def _opened(data: bytes, part: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError as error:
        raise out_of_memory(part) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(part, "claims more pixels than any picture has") from error
    except Exception as error:  # as above: a header can be hostile too
        raise _no_picture(part) from error
    if image.format not in FORMATS:
        raise _no_picture(part)
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(part, f"has {width} × {height} pixels, more than the {max_pixels} of its task")
    return image


def _converted(image: Image.Image, mode: Mode) -> Image.Image:
    """To ``mode``; 16-bit grey keeps its upper byte, which Pillow's own conversion would clip to white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert(mode)
    image.info.pop("transparency", None)
    return image.convert(mode)


def _no_picture(part: str) -> CallerInputError:
    return _refused(part, "is not a picture that can be read", "not_an_image", f"send a plain {' or '.join(FORMATS)}")


def _too_large(part: str, what: str) -> CallerInputError:
    return _refused(part, what, "too_many_pixels", "send a smaller picture, or raise the task's max_pixels")


def _refused(part: str, what: str, reason: str, fix: str) -> CallerInputError:
    return CallerInputError(f"part {part!r} {what}", reason=reason, fix=fix, part=part)


def area(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Each pixel the mean of what falls into it. ``size`` is (width, height)."""
    factor_x, rest_x = divmod(image.width, size[0])
    factor_y, rest_y = divmod(image.height, size[1])
    if not rest_x and not rest_y:
        return image.reduce((factor_x, factor_y))
    return image.resize(size, Image.Resampling.BOX)


def resampled(image: Image.Image, size: tuple[int, int], method: str) -> Image.Image:
    """Pillow's resampling by one of its filters, with antialiasing. ``size`` is (width, height)."""
    return image if image.size == size else image.resize(size, Image.Resampling[method.upper()])


def centred(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, black where there is none. ``size`` is (width, height)."""
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def pixels_of(value: Image.Image | NDArray[np.float32]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """(height, width, channel) of an image (uint8), or the pixels as they are."""
    if isinstance(value, np.ndarray):
        return value
    pixels: NDArray[np.uint8] = np.asarray(value)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
