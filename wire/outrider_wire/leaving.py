"""From an input to what of it leaves the device, as its task allows, and the same in words. Sends nothing, keeps nothing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outrider_wire.errors import CallerInputError, RuleRefusalError
from outrider_wire.images import Decode, decode_picture, orientation_of
from outrider_wire.messages import Modality
from outrider_wire.metadata import clean_image, clean_wav
from outrider_wire.pictures import blurred, coded, coding_of, cropped, small
from outrider_wire.privacy import EMBEDDING, WHOLE, FirstForm, PartPrivacy, Privacy
from outrider_wire.redaction import pseudonym
from outrider_wire.task import InputPart, Task

WORTH_IT = 0.75
"""A first form that has more than this share of the full one's bytes is not worth a second question: all is sent at once."""
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}
TEXT_TYPE = "text/plain; charset=utf-8"
_WAV_TYPE = "audio/wav"
_BYTES_TYPE = "application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """Bytes that may leave."""

    media_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class LeavingPart:
    """One part as it leaves."""

    name: str
    modality: Modality
    full: Form
    first: Form | None = None
    """What is sent before it, and perhaps in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaves:
    """What of one input may leave."""

    parts: list[LeavingPart]
    group: str
    redacted: Counter[str]
    """How often each pattern was taken out."""


class Leaver:
    """What one task lets leave. Safe to use from several threads.

    Args:
        task: whose patterns are expressions.
        key: secret that a group's pseudonym is made with.
        decode: turns pictures into pixels.
    """

    def __init__(self, task: Task, *, key: str, decode: Decode = decode_picture) -> None:
        self._task = task
        self._key = key
        self._decode = decode
        self._redactor = task.privacy.redactor()

    @property
    def draws(self) -> bool:
        """Whether pictures are decoded and coded anew, so that an input takes more than a moment."""
        return any(part.first is not None or self._task.privacy.of(part.name).redraws for part in self._task.inputs)

    @property
    def changes_size(self) -> bool:
        """Whether what is sent at first may be much smaller than the input."""
        return self.draws or any(terms.embedding_only for terms in self._task.privacy.parts.values())

    def leave(
        self, parts: Mapping[str, bytes | str], *, group: str = "", embedding: NDArray[np.floating] | None = None
    ) -> Leaves:
        """What may leave of an input that the device has answered.

        Args:
            parts: all of the task's.
            group: what it is correlated with; one that holds what is to be taken out is replaced as a whole by a name that is
                the same for the same group, so that groups stay apart.
            embedding: what the device's model made of it.

        Raises:
            RuleRefusalError: a part cannot be made fit to leave; nothing of the input may.
        """
        redacted: Counter[str] = Counter()
        made = [self._part(part, parts[part.name], embedding, redacted) for part in self._task.inputs]
        return Leaves(parts=made, group=self._group(group), redacted=redacted)

    def _group(self, group: str) -> str:
        return pseudonym(group, key=self._key) if self._redactor and self._redactor.redact(group).counts else group

    def _part(
        self, part: InputPart, value: bytes | str, embedding: NDArray[np.floating] | None, redacted: Counter[str]
    ) -> LeavingPart:
        if self._task.privacy.of(part.name).embedding_only:
            if embedding is None:
                raise _stays(part.name, "leaves as an embedding only, and the model on this device gives none")
            form = Form(media_type=EMBEDDING, data=np.asarray(embedding, "<f4").tobytes())
            return LeavingPart(name=part.name, modality=part.modality, full=form)
        if part.modality == "text":
            form = Form(media_type=TEXT_TYPE, data=self._text(part.name, value, redacted))
            return LeavingPart(name=part.name, modality=part.modality, full=form)
        data = value.encode() if isinstance(value, str) else bytes(value)
        if part.modality == "image":
            return self._image(part, data)
        return LeavingPart(name=part.name, modality=part.modality, full=_sound_or_series(part, data))

    def _text(self, name: str, value: bytes | str, redacted: Counter[str]) -> bytes:
        if not self._redactor:
            return value.encode() if isinstance(value, str) else bytes(value)
        try:
            found = self._redactor.redact(value if isinstance(value, str) else bytes(value).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise _stays(name, "is not UTF-8 text, so that nothing can be taken out of it") from error
        except ValueError as error:
            raise _stays(name, f"cannot be searched for what must not leave: {error}") from error
        redacted.update(found.counts)
        return found.text.encode()

    def _image(self, part: InputPart, data: bytes) -> LeavingPart:
        terms = self._task.privacy.of(part.name)
        decode = self._decode
        full = _redrawn(part, terms, data, decode) if terms.redraws else _cleaned(part, data, decode)
        form = Form(media_type=_TYPES[coding_of(full)], data=full)
        first = None if part.first is None else _first(part.first, _decoded(part, full, decode))
        if first is not None and len(first.data) > WORTH_IT * len(full):
            first = None
        return LeavingPart(name=part.name, modality=part.modality, full=form, first=first)


def words(task: Task) -> list[str]:
    """What leaves the device, a sentence each thing, for whoever must answer for it."""
    privacy = task.privacy
    if not privacy.escalate:
        return ["nothing: no input of this task ever leaves"]
    told = ["inputs that the device does not keep, and random audits of those it keeps"]
    told += [f"{part.name}: {_part_words(part, privacy)}" for part in task.inputs]
    if taken := [*privacy.redact, *privacy.patterns]:
        told.append(f"taken out of text: {', '.join(taken)}; a group that holds one of them leaves under a pseudonym")
    told.append(
        "with each: the device's own answer and probabilities, the group as the application names it, the model's digest"
    )
    if task.subtasks:
        told.append("answers to the sub-tasks, read from what leaves")
    told.append(
        "the cloud keeps what came, to learn from" if privacy.keep_examples else "the cloud answers and keeps nothing"
    )
    return told


def _part_words(part: InputPart, privacy: Privacy) -> str:
    terms = privacy.of(part.name)
    if terms.embedding_only:
        return "only the numbers that the device's model makes of it (an embedding)"
    if part.modality in ("text", "series"):
        return "as it is" if part.modality == "series" or not (privacy.redact or privacy.patterns) else "redacted"
    told = ["without metadata"]
    if terms.blur:
        where = f"in {len(terms.blur_boxes)} boxes" if terms.blur_boxes else "all over"
        told.append(f"blurred {where} (radius {terms.blur:.1%} of the longer side)")
    if terms.crop != WHOLE:
        left, top, right, bottom = terms.crop
        told.append(f"cropped to {left:.0%}–{right:.0%} of its width and {top:.0%}–{bottom:.0%} of its height")
    if part.first is not None:
        told.append(f"at first {_first_words(part.first)}, all of it only on request")
    return ", ".join(told)


def _first_words(first: FirstForm) -> str:
    match first.kind:
        case "jpeg":
            return f"as a JPEG of quality {first.quality}"
        case "thumbnail":
            return f"{first.side} pixels large"
        case "crop":
            return "a part of it"


def _cleaned(part: InputPart, data: bytes, decode: Decode) -> bytes:
    """The same picture without metadata, as its own bytes where its layout is plain, else coded anew without loss.

    A PNG may name its orientation behind the pixels: one that names any is coded anew, upright.
    """
    try:
        found = clean_image(data)
        if found is not None and found.told and coding_of(data) == "PNG":
            found = None
        if found is not None and found.told:
            turned = orientation_of(data, part=part.name, max_pixels=part.max_pixels)
            found = clean_image(data, orientation=turned) if turned != 1 else found
        return found.data if found is not None else coded(_decoded(part, data, decode), "PNG")
    except CallerInputError as error:
        raise _stays(part.name, f"cannot be freed of its metadata: {error.what}") from error


def _redrawn(part: InputPart, terms: PartPrivacy, data: bytes, decode: Decode) -> bytes:
    """What may leave of the upright picture, coded as it came."""
    image = _decoded(part, data, decode)
    try:
        image = blurred(image, terms.blur, terms.blur_boxes) if terms.blur else image
        return coded(cropped(image, terms.crop) if terms.crop != WHOLE else image, coding_of(data))
    except (OSError, ValueError) as error:
        raise _stays(part.name, f"cannot be blurred and cropped: {error}") from error


def _decoded(part: InputPart, data: bytes, decode: Decode) -> Image.Image:
    try:
        return decode(data, part=part.name, mode="RGB", max_pixels=part.max_pixels)
    except CallerInputError as error:
        raise _stays(part.name, f"cannot be freed of its metadata: {error.what}") from error


def _first(first: FirstForm, image: Image.Image) -> Form | None:
    """None: it cannot be made (a JPEG has at most 65,500 pixels a side), so that all of it is sent at once."""
    try:
        match first.kind:
            case "jpeg":
                return Form(media_type="image/jpeg", data=coded(image, "JPEG", quality=first.quality))
            case "thumbnail":
                return Form(media_type="image/png", data=coded(small(image, first.side), "PNG"))
            case "crop":
                return Form(media_type="image/png", data=coded(cropped(image, first.box), "PNG"))
    except (OSError, ValueError):
        return None


def _sound_or_series(part: InputPart, data: bytes) -> Form:
    if part.modality != "audio":
        return Form(media_type=_BYTES_TYPE, data=data)
    if (cleaned := clean_wav(data)) is None:
        raise _stays(part.name, "is not a WAV file, and no other sound can be freed of its metadata")
    return Form(media_type=_WAV_TYPE, data=cleaned)


def _stays(part: str, why: str) -> RuleRefusalError:
    return RuleRefusalError(
        f"part {part!r} {why}", reason="not_fit_to_leave", fix="correct the input, or the task's [privacy]"
    )
