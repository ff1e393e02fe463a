"""What the declared steps make of a part, and what they refuse, with the part and the reason."""

import io
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from msgspec.json import encode as encode_json
from PIL import Image

from outrider_wire.errors import BundleMismatchError, CallerInputError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.messages import Fact
from outrider_wire.steps import STEPS, Preparer
from outrider_wire.task import InputPart

PICTURE = [
    Step(op="decode_image"),
    Step(op="resize", args={"height": 2, "width": 2}),
    Step(op="scale", args={"by": 1.0}),
]
WORDS = [Step(op="hashed_words", args={"buckets": 96})]


def png(pixels: Any, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(out, "PNG", **options)
    return out.getvalue()


def made(steps: list[Step], shape: list[int], value: bytes | str) -> np.ndarray:
    """What these steps make of one part."""
    return Preparer([ModelInput(part="p", tensor="t", steps=steps, shape=shape)]).prepare({"p": value})["t"]


def demo_preparer(**options: Any) -> Preparer:
    picture = [
        Step(op="decode_image"),
        Step(op="resize", args={"height": 32, "width": 32}),
        Step(op="scale", args={"by": 1 / 255}),
        Step(op="channels_first"),
    ]
    return Preparer(
        [
            ModelInput(part="image", tensor="pixels", steps=picture, shape=[3, 32, 32]),
            ModelInput(part="question", tensor="words", steps=WORDS, shape=[96]),
        ],
        **options,
    )


IMAGE = png(np.full((64, 64, 3), 51))


def test_an_image_and_a_question_become_two_float32_tensors() -> None:
    tensors = demo_preparer().prepare({"image": IMAGE, "question": "What colour is it?"})
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "pixels": ((3, 32, 32), np.float32),
        "words": ((96,), np.float32),
    }
    assert tensors["pixels"] == pytest.approx(0.2)
    assert tensors["pixels"].flags.c_contiguous


def test_area_takes_the_mean_of_what_falls_into_a_pixel() -> None:
    pixels = np.zeros((4, 4, 3))
    pixels[:2, :2] = [[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]]
    assert made(PICTURE, [2, 2, 3], png(pixels))[:, :, 0].tolist() == [[25, 0], [0, 0]]


def test_area_takes_any_size() -> None:
    steps = [Step(op="decode_image", args={"mode": "L"}), Step(op="resize", args={"height": 2, "width": 3})]
    assert made(steps, [2, 3, 1], png(np.full((7, 5, 3), 90))).tolist() == [[[90.0]] * 3] * 2
    assert made(steps, [2, 3, 1], png(np.full((1, 1, 3), 90))).tolist() == [[[90.0]] * 3] * 2


def test_bilinear_keeps_a_ramp_a_ramp() -> None:
    steps = [Step(op="decode_image"), Step(op="resize", args={"height": 1, "width": 3, "method": "bilinear"})]
    ramp = made(steps, [1, 3, 3], png(np.tile(np.arange(0, 240, 10)[None, :, None], (4, 1, 3))))[0, :, 0]
    assert ramp[1] == pytest.approx((ramp[0] + ramp[2]) / 2, abs=1)


def test_normalize_uses_one_number_or_one_a_channel() -> None:
    steps = [*PICTURE, Step(op="normalize", args={"mean": [10, 20, 30], "std": [2]})]
    assert made(steps, [2, 2, 3], png(np.full((2, 2, 3), 50)))[0, 0].tolist() == [20, 15, 10]


def test_an_image_without_scaling_is_float32_too() -> None:
    tensor = made([Step(op="decode_image")], [2, 2, 3], png(np.full((2, 2, 3), 7)))
    assert (tensor.dtype, tensor.max()) == (np.float32, 7.0)


def test_hashed_words_count_words_by_crc32() -> None:
    tensor = made([Step(op="hashed_words", args={"buckets": 7})], [7], "Red, or red?")
    expected = np.zeros(7)
    for word in (b"red", b"or", b"red"):
        expected[zlib.crc32(word) % 7] += 1
    assert tensor.tolist() == expected.tolist()


def test_bigrams_count_pairs_of_neighbours_as_well() -> None:
    tensor = made([Step(op="hashed_words", args={"buckets": 512, "bigrams": True})], [512], "is it red")
    assert tensor.sum() == 5
    assert tensor[zlib.crc32(b"is_it") % 512] >= 1


def test_text_may_come_as_utf8_bytes() -> None:
    assert made(WORDS, [96], "blå bil".encode()).tolist() == made(WORDS, [96], "blå bil").tolist()


@pytest.mark.parametrize("question", ["这是什么颜色？", "какого цвета?", "42 + 17", "", "   "])
def test_a_question_in_another_script_is_legal_makes_zeros_and_is_named_as_unread(question: str) -> None:
    preparer = demo_preparer()
    tensors = preparer.prepare({"image": IMAGE, "question": question})
    assert not tensors["words"].any()
    assert preparer.unread(tensors) == ("question",)


def test_a_question_with_one_known_word_is_read() -> None:
    preparer = demo_preparer()
    assert preparer.unread(preparer.prepare({"image": IMAGE, "question": "这是 red 吗"})) == ()


def test_a_black_picture_is_read_and_not_taken_for_nothing() -> None:
    preparer = demo_preparer()
    assert preparer.unread(preparer.prepare({"image": png(np.zeros((64, 64, 3))), "question": "why"})) == ()


@pytest.mark.parametrize(
    ("parts", "reason", "part"),
    [
        ({"image": IMAGE}, "missing_part", "question"),
        ({}, "missing_part", "image"),
        ({"image": IMAGE, "question": "q", "sound": b""}, "extra_part", "sound"),
        ({"image": IMAGE, "question": "q", "x" * 1000: b""}, "extra_part", "x" * 64),
        ({"image": "a text", "question": "q"}, "wrong_type", "image"),
        ({"image": IMAGE, "question": 7}, "wrong_type", "question"),
        ({"image": None, "question": "q"}, "wrong_type", "image"),
        ({"image": IMAGE, "question": b"\xff\xfe"}, "not_utf8", "question"),
        ({"image": IMAGE, "question": "half \ud83d"}, "not_utf8", "question"),
        ({"image": b"", "question": "q"}, "not_an_image", "image"),
        ({"image": IMAGE, "question": "q" * (32 * 1024 * 1024 + 1)}, "too_large", "question"),
    ],
)
def test_wrong_parts_are_the_callers_and_named(parts: dict[str, Any], reason: str, part: str) -> None:
    with pytest.raises(CallerInputError) as caught:
        demo_preparer().prepare(parts)
    assert (caught.value.reason, caught.value.part) == (reason, part)


BOUNDS = (
    InputPart(name="image", modality="image", max_bytes=2000, max_pixels=64 * 64),
    InputPart(name="question", modality="text", max_bytes=20),
    InputPart(name="sound", modality="audio", max_bytes=4),
)


@pytest.mark.parametrize(
    ("changed", "reason", "part"),
    [
        ({"question": "å" * 11}, "too_large", "question"),
        ({"image": b"x" * 2001}, "too_large", "image"),
        ({"image": png(np.zeros((64, 65, 3)))}, "too_many_pixels", "image"),
        ({"sound": b"12345"}, "too_large", "sound"),
    ],
)
def test_the_bounds_of_the_task_hold(changed: dict[str, bytes | str], reason: str, part: str) -> None:
    preparer = demo_preparer(bounds=BOUNDS)
    good: dict[str, bytes | str] = {"image": IMAGE, "question": "what", "sound": b"1234"}
    assert set(preparer.prepare(good)) == {"pixels", "words"}
    with pytest.raises(CallerInputError) as caught:
        preparer.prepare(good | changed)
    assert (caught.value.reason, caught.value.part) == (reason, part)


def test_a_part_of_the_task_that_no_tensor_reads_must_come_all_the_same() -> None:
    with pytest.raises(CallerInputError, match="'sound' is missing"):
        demo_preparer(bounds=BOUNDS).prepare({"image": IMAGE, "question": "what"})


def test_an_image_of_another_size_than_the_model_takes_is_refused() -> None:
    with pytest.raises(CallerInputError) as caught:
        made([Step(op="decode_image")], [2, 2, 3], png(np.zeros((3, 2, 3))))
    assert caught.value.reason == "wrong_shape"


def test_a_number_that_is_not_finite_never_reaches_the_model() -> None:
    steps = [*PICTURE, Step(op="scale", args={"by": 1e30}), Step(op="scale", args={"by": 1e30})]
    with pytest.raises(CallerInputError) as caught, warnings.catch_warnings(action="ignore"):
        made(steps, [2, 2, 3], png(np.ones((2, 2, 3))))
    assert caught.value.reason == "not_finite"


RESIZE = Step(op="resize", args={"height": 2, "width": 2})
UNFIT: dict[str, tuple[list[Step], list[int], str]] = {
    "an unknown step": ([Step(op="exec")], [2], "no such step"),
    "an unknown parameter": ([Step(op="decode_image", args={"backend": "x"})], [2, 2, 3], "unknown field"),
    "a missing parameter": ([Step(op="decode_image"), Step(op="resize")], [2, 2, 3], "missing required field"),
    "a size out of bounds": ([Step(op="decode_image"), Step(op="resize", args={"height": 1 << 20, "width": 1})], [2], "<= 4096"),
    "a size of nothing": ([Step(op="decode_image"), Step(op="resize", args={"height": 0, "width": 1})], [2], ">= 1"),
    "buckets without end": ([Step(op="hashed_words", args={"buckets": 1 << 40})], [2], "<= 1048576"),
    "a number as text": ([Step(op="hashed_words", args={"buckets": "96"})], [96], "Expected `int`"),
    "an unknown mode": ([Step(op="decode_image", args={"mode": "CMYK"})], [2, 2, 3], "Invalid enum value"),
    "a division by zero": ([*PICTURE, Step(op="normalize", args={"mean": [0], "std": [0]})], [2, 2, 3], ">= 1e-12"),
    "a mean of two channels": ([*PICTURE, Step(op="normalize", args={"mean": [0, 0], "std": [1]})], [2, 2, 3], "1 or 3"),
    "a scale that is NaN": ([*PICTURE, Step(op="scale", args={"by": float("nan")})], [2, 2, 3], "Expected `float`"),
    "resizing before decoding": ([RESIZE], [2, 2, 3], "raw comes before it"),
    "decoding twice": ([Step(op="decode_image")] * 2, [2, 2, 3], "image comes before it"),
    "resizing after scaling": ([*PICTURE, RESIZE], [2, 2, 3], "pixels comes before it"),
    "normalizing planes": (
        [*PICTURE, Step(op="channels_first"), Step(op="normalize", args={"mean": [0], "std": [1]})],
        [3, 2, 2],
        "planes comes before it",
    ),
    "words of a picture": ([Step(op="decode_image"), *WORDS], [96], "image comes before it"),
    "another shape than declared": (PICTURE, [3, 2, 2], r"make shape \(2, 2, 3\), and \(3, 2, 2\) is declared"),
    "another rank than declared": (WORDS, [1, 96], r"make shape \(96\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_steps_that_do_not_fit_are_the_bundles_and_found_before_any_input(name: str) -> None:
    steps, shape, message = UNFIT[name]
    with pytest.raises(BundleMismatchError, match=message):
        Preparer([ModelInput(part="p", tensor="t", steps=steps, shape=shape)])


def test_a_model_that_reads_a_part_the_task_lacks_is_refused() -> None:
    with pytest.raises(BundleMismatchError, match="'question', which the task does not have"):
        demo_preparer(bounds=BOUNDS[:1])


def test_two_inputs_that_fill_one_tensor_are_refused() -> None:
    with pytest.raises(BundleMismatchError, match="the same tensor"):
        Preparer([ModelInput(part=part, tensor="t", steps=WORDS, shape=[96]) for part in ("a", "b")])


def test_one_part_may_fill_two_tensors() -> None:
    preparer = Preparer([ModelInput(part="q", tensor=tensor, steps=WORDS, shape=[96]) for tensor in ("a", "b")])
    assert preparer.parts == {"q"}
    assert set(preparer.prepare({"q": "red"})) == {"a", "b"}


def test_the_table_of_steps_is_the_published_one() -> None:
    assert set(STEPS) == {
        "decode_image",
        "resize",
        "scale",
        "normalize",
        "channels_first",
        "hashed_words",
        "one_hot_facts",
        "embedding",
        "resize_shortest",
        "center_crop",
        "flip_channels",
        "decode_audio",
        "resample",
        "trim",
        "fit",
        "standardize",
        "log_mel",
        "clamp_below_peak",
        "transpose",
        "one_plane",
        "sample_mask",
        "decode_series",
        "flatten",
        "tokenize",
    }


FACTS = [
    Step(
        op="one_hot_facts",
        args={
            "subtasks": [
                {"name": "colour", "labels": ["red", "green"]},
                {"name": "shape", "labels": ["circle", "square", "red"]},
            ]
        },
    )
]


def facts(*said: tuple[str, str, float]) -> bytes:
    return encode_json([Fact(name=name, label=label, confidence=sure) for name, label, sure in said])


def test_facts_become_one_hot_vectors_weighted_by_their_confidence() -> None:
    told = facts(("shape", "red", 0.5), ("colour", "green", 0.75))
    assert made(FACTS, [5], told).tolist() == [0, 0.75, 0, 0, 0.5]


def test_a_sub_task_that_was_not_answered_leaves_zeros() -> None:
    assert made(FACTS, [5], facts(("shape", "circle", 1.0))).tolist() == [0, 0, 1, 0, 0]
    assert made(FACTS, [5], facts(("size", "red", 1.0), ("colour", "circle", 1.0))).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("value", [b"", b"{}", b"[7]", b'[{"name": "colour"}]', b"[" * 100_000, b"\xff"])
def test_what_is_no_list_of_facts_is_refused(value: bytes) -> None:
    with pytest.raises(CallerInputError) as caught:
        made(FACTS, [5], value)
    assert caught.value.reason == "not_facts"


def test_a_sub_task_that_stands_twice_is_a_bundle_that_does_not_fit() -> None:
    twice = [Step(op="one_hot_facts", args={"subtasks": [{"name": "a", "labels": ["x", "y"]}] * 2})]
    with pytest.raises(BundleMismatchError, match="twice"):
        made(twice, [4], b"[]")


def test_an_embedding_is_read_at_its_length_and_at_no_other() -> None:
    preparer = Preparer([ModelInput(part="p", tensor="t", steps=[Step(op="embedding", args={"size": 3})], shape=[3])])
    sent = np.asarray([0.5, -1.0, 2.0], "<f4").tobytes()
    assert preparer.prepare({"p": sent})["t"].tolist() == [0.5, -1.0, 2.0]
    for wrong in (sent[:-1], sent + sent, "text", np.asarray([np.nan] * 3, "<f4").tobytes()):
        with pytest.raises(CallerInputError):
            preparer.prepare({"p": wrong})
