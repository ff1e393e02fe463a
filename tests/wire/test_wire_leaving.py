"""What of an input leaves, by what its task says; settings that do not fit are refused before anything runs."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factory import make_task, png
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.images import decode_picture
from outrider_wire.leaving import Leaver, Leaves, words
from outrider_wire.pictures import upright
from outrider_wire.privacy import EMBEDDING, FirstForm, PartPrivacy, Privacy
from outrider_wire.task import InputPart, Task, parse_task

HEAD = """\
name = "t"
inputs = [{ name = "image", modality = "image" }, { name = "question", modality = "text" }]
answer = { labels = ["a", "b"] }
"""
MAIL = "ann@example.org"


def task_of(privacy: Privacy | None = None, first: FirstForm | None = None, **fields: Any) -> Task:
    image = InputPart(name="image", modality="image", first=first)
    inputs = [image, InputPart(name="question", modality="text")]
    return Task(name="t", inputs=inputs, answer=make_task().answer, privacy=privacy or Privacy(), **fields)


def leave(task: Task, image: bytes, question: str = "what?", **more: Any) -> Leaves:
    return Leaver(task, key="secret").leave({"image": image, "question": question}, **more)


def noise(*, coding: str = "PNG", size: tuple[int, int] = (80, 60), **more: Any) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, coding, **more)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_picture(data, part="p", mode="RGB", max_pixels=10**6)).astype(int)


def turned(orientation: int) -> bytes:
    said = Image.Exif()
    said[0x0112] = orientation
    return noise(exif=said.tobytes())


def test_by_default_everything_leaves_but_metadata() -> None:
    plain = noise()
    left = leave(task_of(), plain, group="clip-1")
    assert [part.full.data for part in left.parts] == [plain, b"what?"]
    assert [part.full.media_type for part in left.parts] == ["image/png", "text/plain; charset=utf-8"]
    assert left.group == "clip-1" and not left.redacted and left.parts[0].first is None


def test_a_picture_whose_layout_is_odd_is_coded_anew_without_loss() -> None:
    plain = noise(coding="JPEG")
    odd = plain[:20] + b"\x00\x00" + plain[20:]
    [image, _] = leave(task_of(), odd).parts
    assert image.full.media_type == "image/png"
    assert np.array_equal(pixels(image.full.data), pixels(odd))


@pytest.mark.parametrize("data", [b"GIF89a", b"", b"\x89PNG\r\n\x1a\n" + b"x" * 40])
def test_what_is_no_picture_does_not_leave(data: bytes) -> None:
    with pytest.raises(RuleRefusalError, match="'image' cannot be freed of its metadata") as refused:
        leave(task_of(), data)
    assert refused.value.reason == "not_fit_to_leave"


def test_a_picture_is_turned_for_whoever_may_not_heed_the_tag() -> None:
    made = upright(turned(6), max_pixels=10**6)
    with Image.open(io.BytesIO(made)) as image:
        assert not image.getexif()
        assert np.array_equal(np.asarray(image), pixels(turned(6)))
    for data in (noise(), b"no picture", turned(6)[:-40]):
        assert upright(data, max_pixels=10**6) == data


def test_a_crop_leaves_its_inside_of_the_upright_picture() -> None:
    task = task_of(Privacy(parts={"image": PartPrivacy(crop=(0.0, 0.5, 0.25, 1.0))}))
    upright = pixels(noise())
    [image, _] = leave(task, noise()).parts
    assert np.array_equal(pixels(image.full.data), upright[30:60, 0:20])
    [image, _] = leave(task, turned(6)).parts
    assert np.array_equal(pixels(image.full.data), np.rot90(upright, -1)[40:80, 0:15])


def test_a_blur_stays_in_its_boxes_and_takes_the_detail_out_of_them() -> None:
    task = task_of(Privacy(parts={"image": PartPrivacy(blur=0.2, blur_boxes=[(0.0, 0.0, 0.5, 1.0)])}))
    [image, _] = leave(task, noise()).parts
    before, after = pixels(noise()), pixels(image.full.data)
    assert np.array_equal(after[:, 40:], before[:, 40:])
    assert after[:, :40].std() < before[:, :40].std() / 8
    [image, _] = leave(task_of(Privacy(parts={"image": PartPrivacy(blur=0.2)})), noise()).parts
    assert pixels(image.full.data).std() < before.std() / 8


@pytest.mark.parametrize(
    ("first", "media_type", "size"),
    [
        (FirstForm(kind="jpeg", quality=50), "image/jpeg", (80, 60)),
        (FirstForm(kind="thumbnail", side=16), "image/png", (16, 12)),
        (FirstForm(kind="crop", box=(0.25, 0.25, 0.5, 0.5)), "image/png", (20, 15)),
    ],
)
def test_a_first_form_is_less_of_the_same_upright_picture(
    first: FirstForm, media_type: str, size: tuple[int, int]
) -> None:
    [image, _] = leave(task_of(first=first), noise()).parts
    assert image.first is not None and image.first.media_type == media_type
    with Image.open(io.BytesIO(image.first.data)) as made:
        assert made.size == size
    assert image.full.data == noise()
    [image, _] = leave(task_of(first=first), turned(6)).parts
    assert image.first is not None
    with Image.open(io.BytesIO(image.first.data)) as made:
        assert made.size == size[::-1] and not made.getexif()


def test_a_first_form_shows_no_more_than_what_leaves() -> None:
    task = task_of(
        Privacy(parts={"image": PartPrivacy(crop=(0.5, 0.0, 1.0, 1.0))}), FirstForm(kind="thumbnail", side=30)
    )
    [image, _] = leave(task, noise()).parts
    assert image.first is not None
    with Image.open(io.BytesIO(image.first.data)) as made:
        assert made.size == (20, 30)


def test_a_first_form_that_saves_little_is_not_worth_a_second_question() -> None:
    [image, _] = leave(task_of(first=FirstForm(kind="jpeg", quality=95)), noise(coding="JPEG", quality=40)).parts
    assert image.first is None


def test_a_picture_that_no_first_form_can_be_made_of_is_sent_at_once() -> None:
    wide = noise(size=(70_000, 1))
    [image, _] = leave(task_of(first=FirstForm(kind="jpeg")), wide).parts
    assert image.first is None and image.full.data == wide


def test_a_picture_of_one_pixel_goes_every_way() -> None:
    privacy = Privacy(parts={"image": PartPrivacy(crop=(0.4, 0.4, 0.6, 0.6), blur=0.5)})
    for kind, more in (("jpeg", {}), ("thumbnail", {}), ("crop", {"box": (0.4, 0.4, 0.6, 0.6)})):
        for coding in ("PNG", "JPEG"):
            left = leave(task_of(privacy, FirstForm(kind=kind, **more)), noise(size=(1, 1), coding=coding))
            assert pixels(left.parts[0].full.data).shape == (1, 1, 3)


def test_text_and_group_are_redacted_and_counted() -> None:
    task = task_of(Privacy(redact=["email"], patterns={"plate": "[A-Z]-[0-9]{3}"}))
    left = leave(task, noise(), f"does {MAIL} drive B-123 or {MAIL}?", group=f"call with {MAIL}")
    assert left.parts[1].full.data == b"does [email] drive [plate] or [email]?"
    assert left.redacted == {"email": 2, "plate": 1}
    same = leave(task, noise(), group=f"call with {MAIL}").group
    assert left.group == same and left.group.startswith("p-") and MAIL not in left.group
    assert leave(task, noise(), group="clip-1").group == "clip-1"


def test_a_text_that_cannot_be_searched_does_not_leave() -> None:
    task = task_of(Privacy(redact=["email"]))
    for text in ("x" * 70_000, b"\xff\xfe"):
        with pytest.raises(RuleRefusalError, match="'question'"):
            leave(task, noise(), text)  # type: ignore[arg-type]  # bytes are a text part too


def test_an_embedding_leaves_in_the_place_of_its_part() -> None:
    task = task_of(Privacy(parts={"image": PartPrivacy(embedding_only=True)}))
    numbers = np.asarray([0.5, -1.0], np.float64)
    [image, _] = leave(task, noise(), embedding=numbers).parts
    assert image.full.media_type == EMBEDDING
    assert np.frombuffer(image.full.data, "<f4").tolist() == [0.5, -1.0]
    with pytest.raises(RuleRefusalError, match="gives none"):
        leave(task, noise())


UNFIT = {
    "[privacy.parts.sound]\ncrop = [0, 0, 1, 0.5]": "names no input",
    "[privacy.parts.question]\nblur = 0.1": "only an image",
    "[privacy.parts.image]\ncrop = [0.5, 0, 0.5, 1]": "a box is",
    "[privacy.parts.image]\ncrop = [0, 0, 1.5, 1]": "<= 1.0",
    "[privacy.parts.image]\nblur_boxes = [[0, 0, 1, 1]]": "need blur",
    "[privacy.parts.image]\nembedding_only = true\nblur = 0.1": "no picture",
    "[privacy.parts.image]\ncorp = [0, 0, 1, 1]": "did you mean 'crop'",
    '[privacy]\nredact = ["emails"]': "emails",
    '[privacy.patterns]\nplate = "(a"': "privacy.patterns.plate is not an expression",
}


@pytest.mark.parametrize("text", UNFIT)
def test_settings_that_do_not_fit_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(OperatorConfigError, match=UNFIT[text].replace("(", r"\(")):
        parse_task(HEAD + text)


FIRSTS = {
    'modality = "text", first = { as = "jpeg" }': "only an image has a first form",
    'modality = "image", first = { as = "gif" }': "gif",
    'modality = "image", first = { as = "crop" }': "box belongs",
    'modality = "image", first = { as = "jpeg", qualty = 5 }': "did you mean 'quality'",
}


@pytest.mark.parametrize("part", FIRSTS)
def test_a_first_form_that_cannot_be_made_is_refused(part: str) -> None:
    text = f'name = "t"\ninputs = [{{ name = "p", {part} }}]\nanswer = {{ labels = ["a", "b"] }}\n'
    with pytest.raises(OperatorConfigError, match=FIRSTS[part]):
        parse_task(text)


def test_what_leaves_is_said_in_words() -> None:
    privacy = Privacy(
        redact=["email"],
        patterns={"plate": "[A-Z]-[0-9]{3}"},
        keep_examples=False,
        parts={"image": PartPrivacy(crop=(0.0, 0.2, 1.0, 1.0), blur=0.05)},
    )
    said = words(task_of(privacy, FirstForm(kind="jpeg", quality=40)))
    assert said[1] == (
        "image: without metadata, blurred all over (radius 5.0% of the longer side), cropped to 0%–100% of its width and "
        "20%–100% of its height, at first as a JPEG of quality 40, all of it only on request"
    )
    assert said[2:4] == [
        "question: redacted",
        "taken out of text: email, plate; a group that holds one of them leaves under a pseudonym",
    ]
    assert said[-1] == "the cloud answers and keeps nothing"
    assert words(task_of(Privacy(escalate=False))) == ["nothing: no input of this task ever leaves"]
    alone = words(task_of(Privacy(parts={"image": PartPrivacy(embedding_only=True)})))
    assert "image: only the numbers that the device's model makes of it (an embedding)" in alone


def test_a_plain_png_costs_no_decoding() -> None:
    """No device pays for what its task does not ask: without first forms and redrawing, nothing is drawn."""
    assert not Leaver(task_of(), key="k").draws
    assert Leaver(task_of(first=FirstForm(kind="jpeg")), key="k").draws
    assert leave(task_of(), png()).parts[0].full.data == png()
