"""The steps of pictures: decode, resize, crop, colour, scale, normalise. Rows of `outrider_wire.step_table`."""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from PIL import Image

from outrider_wire.errors import CallerInputError
from outrider_wire.images import area, centred, pixels_of, resampled
from outrider_wire.step import Finite, Flow, Function, Positive, Side, StepOp

Method = Literal["area", "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
RESIZED_PIXELS = 16_000_000
"""Of a picture whose longer side follows from its shorter one: a strip of one pixel by a million would grow without bound."""


class DecodeImage(StepOp, kw_only=True, frozen=True):
    """JPEG or PNG bytes → image, upright by its EXIF orientation; the first frame of an animation; alpha is dropped."""

    takes = frozenset({"raw"})
    mode: Literal["RGB", "L"] = "RGB"

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Height and width stay open until the bytes are there."""
        part, max_pixels, mode, decode = flow.part, flow.max_pixels, self.mode, flow.decode
        shape = (None, None, 3 if mode == "RGB" else 1)
        return (
            lambda data: decode(data, part=part, mode=mode, max_pixels=max_pixels),
            replace(flow, kind="image", shape=shape),
        )


class Resize(StepOp, kw_only=True, frozen=True):
    """Image → image of that size. ``area`` averages what falls into each pixel; the others are Pillow's, with antialiasing."""

    takes = frozenset({"image"})
    height: Side
    width: Side
    method: Method = "area"

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Aspect is not kept: height and width are what the model sees."""
        method, size = self.method, (self.width, self.height)
        return lambda image: _resized(image, size, method), replace(
            flow, shape=(self.height, self.width, flow.shape[2])
        )


class ResizeShortest(StepOp, kw_only=True, frozen=True):
    """Image → image whose shorter side is ``side``; the longer one keeps the aspect, rounded down."""

    takes = frozenset({"image"})
    side: Side
    method: Method = "bilinear"

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Height and width stay open; a picture that would grow beyond `RESIZED_PIXELS` is refused."""
        part, side, method = flow.part, self.side, self.method

        def shrink(image: Image.Image) -> Image.Image:
            short, long = sorted(image.size)
            longer = int(side * long / short)
            if side * longer > RESIZED_PIXELS:
                raise CallerInputError(
                    f"part {part!r} is {image.width} × {image.height} pixels, too narrow a strip for this model",
                    reason="wrong_shape",
                    fix="send a picture of a usual shape",
                    part=part,
                )
            return _resized(image, (side, longer) if image.width <= image.height else (longer, side), method)

        return shrink, replace(flow, shape=(None, None, flow.shape[2]))


class CenterCrop(StepOp, kw_only=True, frozen=True):
    """Image → its middle, of that size; black around it where the image is smaller."""

    takes = frozenset({"image"})
    height: Side
    width: Side

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The odd pixel goes to the right and to the bottom."""
        size = (self.width, self.height)
        return lambda image: centred(image, size), replace(flow, shape=(self.height, self.width, flow.shape[2]))


class FlipChannels(StepOp, kw_only=True, frozen=True):
    """Image or pixels → pixels with their channels in the opposite order: RGB as BGR."""

    takes = frozenset({"image", "pixels"})

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A view."""
        return lambda value: pixels_of(value)[:, :, ::-1], replace(flow, kind="pixels")


class Scale(StepOp, kw_only=True, frozen=True):
    """Image or pixels → float32 pixels (height, width, channel) × ``by``."""

    takes = frozenset({"image", "pixels"})
    by: Finite

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """One multiplication."""
        by = np.float32(self.by)
        return (
            lambda value: np.multiply(pixels_of(value), by, dtype=np.float32),
            replace(flow, kind="pixels"),
        )


class Normalize(StepOp, kw_only=True, frozen=True):
    """Image, pixels, frames or series → (value − mean) / std, one number for all channels (the last axis) or one a channel."""

    takes = frozenset({"image", "pixels", "frames", "series"})
    mean: Annotated[list[Finite], Meta(min_length=1, max_length=4096)]
    std: Annotated[list[Positive], Meta(min_length=1, max_length=4096)]

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The two lists are checked against the number of channels."""
        channels = flow.shape[-1]
        if any(len(numbers) not in (1, channels) for numbers in (self.mean, self.std)):
            raise ValueError(f"mean and std need 1 or {channels} numbers")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        after = replace(flow, kind="pixels" if flow.kind == "image" else flow.kind)
        return lambda value: (pixels_of(value) - mean) / std, after


class ChannelsFirst(StepOp, kw_only=True, frozen=True):
    """Pixels (height, width, channel) → planes (channel, height, width), contiguous."""

    takes = frozenset({"image", "pixels"})

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A copy, since the model wants contiguous memory."""
        height, width, channels = flow.shape
        return (
            lambda value: np.ascontiguousarray(pixels_of(value).transpose(2, 0, 1)),
            replace(flow, kind="planes", shape=(channels, height, width)),
        )


def _resized(image: Image.Image, size: tuple[int, int], method: Method) -> Image.Image:
    return area(image, size) if method == "area" else resampled(image, size, method)
