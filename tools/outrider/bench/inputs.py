"""Inputs for benchmarks, made up: pictures of coloured shapes with questions, and parts of a wanted size. Times nothing."""

import io
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import InputPart, Task

Parts = dict[str, bytes | str]
Rng = np.random.Generator

SIDE = 64
_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
_SHAPES = ("circle", "rectangle", "triangle")
_WORDS = [
    "what",
    "colour",
    "is",
    "the",
    "shape",
    "in",
    "this",
    "picture",
    "and",
    "is",
    "there",
    "a",
    "circle",
    "or",
    "a",
    "triangle",
]
_PNG_BYTES = 57
"""A PNG around its one data chunk; the data adds 11 and five a block to what it holds, and one a line."""


class Kind(NamedTuple):
    """How the pictures of a benchmark are coded."""

    name: str
    coding: Literal["PNG", "JPEG"]
    noise: float
    """Standard deviation, of 255."""


KINDS = (Kind("png", "PNG", 0.0), Kind("png-noisy", "PNG", 12.0), Kind("jpeg-noisy", "JPEG", 12.0))
"""Drawn, drawn and grainy, and as a camera sends it. The last one gives a benchmark its headline."""


def make_inputs(task: Task, kind: Kind, n: int, *, seed: int = 0) -> list[Parts]:
    """``n`` different inputs of a task: 64 × 64 pictures of a shape, and a question where it takes text."""
    rng = np.random.default_rng(seed)
    makers = [(part.name, _maker(part, kind)) for part in task.inputs]
    return [{name: make(rng) for name, make in makers} for _ in range(n)]


def sized_inputs(task: Task, size: int, n: int, *, seed: int = 0) -> list[Parts]:
    """``n`` different inputs whose first part that can be so large has about ``size`` bytes, noise that nothing compresses.

    Raises:
        OperatorConfigError: no part of the task may have that size.
    """
    rng = np.random.default_rng(seed)
    part = carrier(task, size)
    fillers = make_inputs(task, KINDS[0], n, seed=seed)
    carried = noise_picture if part.modality == "image" else noise_text
    return [{**filler, part.name: carried(rng, size)} for filler in fillers]


def carrier(task: Task, size: int) -> InputPart:
    """The part that can carry ``size`` bytes: an image before a text; errors as `sized_inputs`."""
    able = [part for part in task.inputs if part.modality in ("image", "text") and part.max_bytes >= size]
    able = [part for part in able if part.modality == "text" or part.max_pixels * 3 >= size]
    if not able:
        raise OperatorConfigError(
            f"no part of task {task.name!r} may have {size} bytes",
            reason="size_not_allowed",
            fix="ask for smaller sizes, or name a task that takes more",
        )
    return min(able, key=lambda part: part.modality)


def shape_picture(rng: Rng, kind: Kind) -> bytes:
    """One shape of one colour on a light ground."""
    image = Image.new("RGB", (SIDE, SIDE), (230, 231, 235))
    draw, colour = ImageDraw.Draw(image), str(rng.choice(_COLOURS))
    left, top = (int(number) for number in rng.integers(4, 24, 2))
    right, bottom = (int(number) for number in rng.integers(34, 60, 2))
    match rng.choice(_SHAPES):
        case "circle":
            draw.ellipse((left, top, right, bottom), fill=colour)
        case "rectangle":
            draw.rectangle((left, top, right, bottom), fill=colour)
        case _:
            draw.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=colour)
    if kind.noise:
        grainy = np.asarray(image) + rng.normal(0.0, kind.noise, (SIDE, SIDE, 3))
        image = Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
    return _coded(image, kind.coding)


def noise_picture(rng: Rng, size: int) -> bytes:
    """A PNG of noise of at most ``size`` bytes, and little less."""
    width = max(1, math.isqrt(size // 3))
    height = max(1, (size - _PNG_BYTES - 11 - 5 * (size // 16_384 + 1)) // (3 * width + 1))
    return _coded(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), "PNG", compress_level=0)


def noise_text(rng: Rng, size: int) -> str:
    """Letters and spaces, ``size`` of them."""
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)
    return bytes(rng.choice(letters, size)).decode()


def _question(rng: Rng) -> str:
    return " ".join(rng.choice(_WORDS, 8)) + "?"


def _maker(part: InputPart, kind: Kind) -> Callable[[Rng], bytes | str]:
    match part.modality:
        case "image":
            return lambda rng: shape_picture(rng, kind)
        case "text":
            return _question
        case other:
            raise OperatorConfigError(
                f"the benchmarks make no part of modality {other!r}",
                reason="modality_not_made",
                fix="name a task of images and text",
            )


def _coded(image: Image.Image, coding: Literal["PNG", "JPEG"], *, compress_level: int = 6) -> bytes:
    out = io.BytesIO()
    settings = {"quality": 90} if coding == "JPEG" else {"compress_level": compress_level}
    image.save(out, coding, **settings)
    return out.getvalue()
