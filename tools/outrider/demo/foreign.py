"""Pictures no camera of the device ever took, each a kind of input that a confident model should still not keep."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outrider.demo.cameras import encode

Pixels = NDArray[np.uint8]


def _noise(picture: Pixels) -> Pixels:
    rng = np.random.default_rng(int(picture.astype(np.int64).sum()))
    return rng.integers(0, 256, picture.shape, dtype=np.uint8)


FOREIGN: dict[str, Callable[[Pixels], Pixels]] = {
    "blank": lambda picture: np.full_like(picture, 128),
    "black": np.zeros_like,
    "inverted": lambda picture: 255 - picture,
    "noise": _noise,
    "red and blue swapped": lambda picture: picture[:, :, ::-1].copy(),
    "dark": lambda picture: (picture // 4).astype(np.uint8),
}
"""Name → what is done to a capture (height, width, 3) of the device."""


def altered(jpeg: bytes, kind: str) -> bytes:
    """A capture of the device, turned into that kind of foreign picture."""
    picture = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    return encode(FOREIGN[kind](picture), quality=95)
