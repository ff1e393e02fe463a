"""What the device's camera does to a picture: cast, exposure, soft optics, noise, JPEG. Knows no model and no data set."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Ranges that every capture draws from, uniformly."""

    gains: tuple[Range, Range, Range]
    """Multiplier of red, green, blue."""
    exposure: Range
    blur: Range
    """Standard deviation in pixels."""
    noise: Range
    """Standard deviation as a share of full scale."""


DEVICE = Camera(
    gains=((0.95, 1.10), (0.80, 0.95), (0.45, 0.75)), exposure=(0.45, 0.85), blur=(0.6, 1.5), noise=(0.03, 0.08)
)
"""A cheap module under warm indoor light: warm cast, low exposure, soft optics, read noise."""


def capture(picture: NDArray[np.uint8], camera: Camera, rng: np.random.Generator, *, quality: int = 90) -> bytes:
    """One JPEG of ``picture`` (height, width, 3) as ``camera`` sees it."""
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(rng.uniform(*camera.blur)))
    light = np.array([rng.uniform(*gain) for gain in camera.gains], np.float32) * np.float32(
        rng.uniform(*camera.exposure)
    )
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(255 * rng.uniform(*camera.noise))
    return encode(np.asarray(blurred, np.float32) * light + noise, quality=quality)


def encode(pixels: NDArray[np.floating] | NDArray[np.uint8], *, quality: int = 90) -> bytes:
    """A JPEG of ``pixels`` (height, width, 3), 0 to 255, clipped."""
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
