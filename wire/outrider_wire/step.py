"""What a preprocessing step is, and what is known of a value between two of them. Knows no step by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from msgspec import Meta, Struct

from outrider_wire.images import Decode, decode_picture
from outrider_wire.limits import IMAGE_PIXELS, PART_BYTES

Kind = Literal["raw", "image", "pixels", "planes", "vector", "sound", "wave", "frames", "tokens", "series"]
Function = Callable[[Any], Any]
Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]
Positive = Annotated[float, Meta(ge=1e-12, le=1e30)]
Side = Annotated[int, Meta(ge=1, le=4096)]
Length = Annotated[int, Meta(ge=1, le=1 << 24)]


class Encoded(NamedTuple):
    """A text as the numbers that a language model reads, cut and padded to one length: each (length,)."""

    ids: list[int]
    mask: list[int]
    """1 where there is text, 0 where there is padding."""
    types: list[int]
    """Which text of a pair a token is of."""


Encode = Callable[[str], Encoded]
"""What a tokenizer file does to a text, or a `ValueError` where it fails on that; see `outrider_engine.tokenizing`."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What is known of a value between two steps, before there is one. A side that depends on the input is None."""

    part: str
    max_bytes: int = PART_BYTES
    max_pixels: int = IMAGE_PIXELS
    decode: Decode = decode_picture
    encoders: Mapping[str, Encode] = field(default_factory=dict)
    """File of the bundle → what it does to a text."""
    kind: Kind = "raw"
    shape: tuple[int | None, ...] = ()
    rate: int = 0
    """Samples a second of a wave."""
    silent: frozenset[int] = frozenset({0})
    """Numbers of a vector or of tokens that say nothing: a tensor of nothing else is one that the part left no trace in."""


class StepOp(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of the rows: the fields of a subclass are the step's parameters."""

    takes: ClassVar[frozenset[Kind]]

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The function of this step after ``flow``, and what is known after it.

        Raises:
            ValueError: the parameters do not fit what comes before.
        """
        raise NotImplementedError  # each step has its own
