"""The steps that turn a part into an array, one row each: what it takes, its parameters, what it gives. Knows no bundles.

A step is a struct whose fields are its parameters, bounded like everything else that comes with a bundle, and which
compiles once into a plain function. Kinds of value between two steps::

    raw (bytes or text) ── decode_image ──> image ── resize ──> image ── scale, normalize ──> pixels ── channels_first ──> planes
    raw (bytes or text) ── hashed_words ──> vector
    raw (facts as JSON) ── one_hot_facts ──> vector
"""

import itertools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from outrider_wire.errors import CallerInputError
from outrider_wire.images import Decode, area, bilinear, decode_picture, pixels_of
from outrider_wire.limits import IMAGE_PIXELS, PART_BYTES, PARTS
from outrider_wire.messages import Fact
from outrider_wire.task import Subtask

Kind = Literal["raw", "image", "pixels", "planes", "vector"]
Function = Callable[[Any], Any]
Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]
Side = Annotated[int, Meta(ge=1, le=4096)]

_WORDS = re.compile(r"[a-z]+")
_FACTS = msgspec.json.Decoder(list[Fact])


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What is known of a value between two steps, before there is one. A side that depends on the input is None."""

    part: str
    max_bytes: int = PART_BYTES
    max_pixels: int = IMAGE_PIXELS
    decode: Decode = decode_picture
    kind: Kind = "raw"
    shape: tuple[int | None, ...] = ()


class StepOp(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of the rows: the fields of a subclass are the step's parameters."""

    takes: ClassVar[frozenset[Kind]]

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The function of this step after ``flow``, and what is known after it.

        Raises:
            ValueError: the parameters do not fit what comes before.
        """
        raise NotImplementedError  # each step has its own


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
    """Image → image of that size. ``area`` averages what falls into each pixel; ``bilinear`` is Pillow's, with antialiasing."""

    takes = frozenset({"image"})
    height: Side
    width: Side
    method: Literal["area", "bilinear"] = "area"

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Aspect is not kept: height and width are what the model sees."""
        how, size = (area if self.method == "area" else bilinear), (self.width, self.height)
        return lambda image: how(image, size), replace(flow, shape=(self.height, self.width, flow.shape[2]))


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
    """Image or pixels → (pixels − mean) / std, one number for all channels or one a channel."""

    takes = frozenset({"image", "pixels"})
    mean: Annotated[list[Finite], Meta(min_length=1, max_length=4)]
    std: Annotated[list[Annotated[float, Meta(ge=1e-12, le=1e30)]], Meta(min_length=1, max_length=4)]

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The two lists are checked against the number of channels."""
        channels = flow.shape[2]
        if any(len(numbers) not in (1, channels) for numbers in (self.mean, self.std)):
            raise ValueError(f"mean and std need 1 or {channels} numbers")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return lambda value: (pixels_of(value) - mean) / std, replace(flow, kind="pixels")


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


class HashedWords(StepOp, kw_only=True, frozen=True):
    """Text → counts of its lower-case a–z words (and pairs of neighbours) by CRC-32 modulo ``buckets``.

    A text without one such word (another script, digits, blanks) gives zeros: that is an input the model may get, and
    `outrider_wire.steps.Preparer.unread` names it, so that the acceptance rule can refuse to answer it.
    """

    takes = frozenset({"raw"})
    buckets: Annotated[int, Meta(ge=1, le=1 << 20)]
    bigrams: bool = False

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A vector of ``buckets`` counts."""
        part, buckets, bigrams = flow.part, self.buckets, self.bigrams
        return lambda value: _hashed(_text(value, part), buckets, bigrams), replace(
            flow, kind="vector", shape=(buckets,)
        )


class OneHotFacts(StepOp, kw_only=True, frozen=True):
    """Facts as JSON → one-hot × confidence of each sub-task, in this order; zeros where a sub-task was not answered."""

    takes = frozenset({"raw"})
    subtasks: Annotated[list[Subtask], Meta(min_length=1, max_length=PARTS)]

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A vector with one place for each label of each sub-task."""
        part, places, size = flow.part, {}, 0
        for subtask in self.subtasks:
            for label in subtask.labels:
                places[subtask.name, label] = size
                size += 1
        if len(places) != size:
            raise ValueError("a sub-task or one of its labels stands twice")
        return lambda value: _one_hot(value, places, part), replace(flow, kind="vector", shape=(size,))


STEPS: dict[str, type[StepOp]] = {
    "decode_image": DecodeImage,
    "resize": Resize,
    "scale": Scale,
    "normalize": Normalize,
    "channels_first": ChannelsFirst,
    "hashed_words": HashedWords,
    "one_hot_facts": OneHotFacts,
}
"""Every step that a bundle may name."""


def _text(value: bytes | str, part: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CallerInputError(
            f"part {part!r} is not UTF-8 text", reason="not_utf8", fix="send text encoded as UTF-8", part=part
        ) from error


def _hashed(text: str, buckets: int, bigrams: bool) -> NDArray[np.float32]:
    words = _WORDS.findall(text.lower())
    if bigrams:
        words += [f"{first}_{second}" for first, second in itertools.pairwise(words)]
    counts = np.zeros(buckets, np.float32)
    for word in words:
        counts[zlib.crc32(word.encode("ascii")) % buckets] += 1.0
    return counts


def _one_hot(value: bytes | str, places: dict[tuple[str, str], int], part: str) -> NDArray[np.float32]:
    try:
        facts = _FACTS.decode(value)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise CallerInputError(
            f"part {part!r} holds no facts: {error}", reason="not_facts", fix="send a JSON list of facts", part=part
        ) from error
    vector = np.zeros(len(places), np.float32)
    for fact in facts:
        if (place := places.get((fact.name, fact.label))) is not None:
            vector[place] = fact.confidence
    return vector
