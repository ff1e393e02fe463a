"""What a task says of its inputs on their way out: what may leave, in which form, and what is sent first. Settings; changes no input."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct, field

from outrider_wire.messages import Modality
from outrider_wire.names import Name
from outrider_wire.redaction import Known, Redactor

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Box = tuple[Share, Share, Share, Share]
"""Left, top, right, bottom as shares of the upright picture's width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
EMBEDDING = "application/vnd.outrider.embedding"
"""Media type of a part that leaves as an embedding: float32, little-endian, one row."""


class PartPrivacy(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What becomes of one part before it leaves. Metadata goes in any case."""

    crop: Box = WHOLE
    """Only this much of the picture leaves."""
    blur: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0
    """Radius of a Gaussian blur, as a share of the picture's longer side; 0: none."""
    blur_boxes: Annotated[list[Box], Meta(max_length=32)] = []
    """Where it is blurred, of the whole picture; none: everywhere."""
    embedding_only: bool = False
    """Not the part leaves but what the model on the device made of it: an embedding."""

    def __post_init__(self) -> None:
        """Refuses a box without an inside, and a blur that is half said."""
        for box in (self.crop, *self.blur_boxes):
            _check_box(box)
        if self.blur_boxes and not self.blur:
            raise ValueError("blur_boxes need blur, the radius")
        if self.embedding_only and (self.blur or self.crop != WHOLE):
            raise ValueError("embedding_only sends no picture that could be cropped or blurred")

    @property
    def redraws(self) -> bool:
        """Whether the picture that leaves is another one."""
        return self.crop != WHOLE or self.blur > 0


class FirstForm(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is sent of a picture at first; all of it follows if the large model is not sure enough of that."""

    kind: Literal["jpeg", "thumbnail", "crop"] = field(name="as")
    """``jpeg``: the whole picture, compressed to ``quality``; ``thumbnail``: made small, and not compressed besides, which
    would make large models over-confident; ``crop``: the inside of ``box``."""
    quality: Annotated[int, Meta(ge=1, le=95)] = 50
    """Of a ``jpeg``, as Pillow counts it."""
    side: Annotated[int, Meta(ge=4, le=4096)] = 16
    """Of a ``thumbnail``: pixels of the longer side, at most."""
    box: Box = WHOLE
    """Of a ``crop``, in what leaves of the picture."""

    def __post_init__(self) -> None:
        """Refuses a crop that leaves nothing out."""
        _check_box(self.box)
        if (self.kind == "crop") != (self.box != WHOLE):
            raise ValueError('box belongs to as = "crop", and says what is sent first')


class Privacy(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What may leave the device."""

    escalate: bool = True
    """False: nothing is ever sent; what the rule refuses is answered locally and says so."""
    keep_examples: bool = True
    """False: the cloud answers and forgets; nothing is kept for learning."""
    redact: list[Known] = []
    """Taken out of text parts, by names of `outrider_wire.redaction.KNOWN`."""
    patterns: Annotated[dict[Name, str], Meta(max_length=32)] = {}
    """Further expressions to take out, by the name that stands in their place: `outrider_wire.patterns`."""
    parts: dict[Name, PartPrivacy] = {}
    """What becomes of a part, by its name."""

    def of(self, part: str) -> PartPrivacy:
        """What becomes of that part."""
        return self.parts.get(part, _AS_IT_IS)

    def redactor(self) -> Redactor:
        """What takes things out of texts.

        Raises:
            ValueError: a pattern is not an expression.
        """
        return Redactor(self.redact, self.patterns)


class Part(Protocol):
    """An input part of a task, as far as this module looks at it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def modality(self) -> Modality:
        """What it is."""
        ...

    @property
    def first(self) -> FirstForm | None:
        """What is sent of it at first."""
        ...


def faults(privacy: Privacy, parts: Sequence[Part]) -> Iterator[str]:
    """What of it does not fit the parts of its task."""
    by_name = {part.name: part for part in parts}
    for name, source in privacy.patterns.items():
        try:
            Redactor((), {name: source})
        except ValueError as error:
            yield f"privacy.patterns.{name} is not an expression that can be used: {error}"
    for name, terms in privacy.parts.items():
        if name not in by_name:
            yield f"privacy.parts.{name} names no input of the task"
        elif by_name[name].modality != "image" and terms.redraws:
            yield f"privacy.parts.{name} crops or blurs {by_name[name].modality}; only an image can be"
    for part in parts:
        if part.first is not None and part.modality != "image":
            yield f"input {part.name!r} is {part.modality}; only an image has a first form"
        elif part.first is not None and privacy.of(part.name).embedding_only:
            yield f"input {part.name!r} leaves as an embedding only, which has no first form"


def _check_box(box: Box) -> None:
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise ValueError("a box is [left, top, right, bottom], each of the first two below its partner")


_AS_IT_IS = PartPrivacy()
