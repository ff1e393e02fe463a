"""The table of steps that turn a part into an array: every step that a bundle may name. Knows no bundles.

A step is a struct whose fields are its parameters, bounded like everything else that comes with a bundle, and which
compiles once into a plain function. Kinds of value between two steps::

    raw (bytes or text) ── decode_image ──> image ── resize, crop ──> image ── scale, normalize ──> pixels ── channels_first ──> planes
    raw (a sound) ── decode_audio ──> sound ── resample ──> wave ── trim, standardize, fit ──> wave ── log_mel ──> frames ──> planes
    raw (numbers) ── decode_series ──> series ── fit, normalize, flatten ──> series
    raw (a text) ── hashed_words ──> vector
    raw (a text) ── tokenize ──> tokens
    raw (facts as JSON) ── one_hot_facts ──> vector
    raw (an embedding) ── embedding ──> vector
"""

from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from outrider_wire.errors import CallerInputError
from outrider_wire.image_steps import (
    CenterCrop,
    ChannelsFirst,
    DecodeImage,
    FlipChannels,
    Normalize,
    Resize,
    ResizeShortest,
    Scale,
)
from outrider_wire.limits import PARTS
from outrider_wire.messages import Fact
from outrider_wire.series_steps import DecodeSeries, Flatten
from outrider_wire.sound_steps import (
    ClampBelowPeak,
    DecodeAudio,
    Fit,
    LogMel,
    OnePlane,
    Resample,
    SampleMask,
    Standardize,
    Transpose,
    Trim,
)
from outrider_wire.step import Flow, Function, StepOp
from outrider_wire.task import Subtask
from outrider_wire.text_steps import HashedWords, Tokenize

_FACTS = msgspec.json.Decoder(list[Fact])


class Embedding(StepOp, kw_only=True, frozen=True):
    """What a device's model made of a part that never leaves it (float32, little-endian) → vector of ``size`` numbers."""

    takes = frozenset({"raw"})
    size: Annotated[int, Meta(ge=1, le=65_536)]

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Of exactly that length."""
        part, size = flow.part, self.size
        return lambda value: _numbers(value, part, size), replace(flow, kind="vector", shape=(size,))


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
    "resize_shortest": ResizeShortest,
    "center_crop": CenterCrop,
    "flip_channels": FlipChannels,
    "scale": Scale,
    "normalize": Normalize,
    "channels_first": ChannelsFirst,
    "decode_audio": DecodeAudio,
    "resample": Resample,
    "trim": Trim,
    "fit": Fit,
    "standardize": Standardize,
    "log_mel": LogMel,
    "clamp_below_peak": ClampBelowPeak,
    "transpose": Transpose,
    "one_plane": OnePlane,
    "sample_mask": SampleMask,
    "decode_series": DecodeSeries,
    "flatten": Flatten,
    "hashed_words": HashedWords,
    "tokenize": Tokenize,
    "one_hot_facts": OneHotFacts,
    "embedding": Embedding,
}
"""Every step that a bundle may name."""


def _numbers(value: bytes | str, part: str, size: int) -> NDArray[np.float32]:
    if isinstance(value, str) or len(value) != 4 * size:
        raise CallerInputError(
            f"part {part!r} is no embedding of {size} numbers",
            reason="wrong_embedding",
            fix="let the device's model be the one that this large model was trained with",
            part=part,
        )
    return np.frombuffer(value, "<f4").astype(np.float32)


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
