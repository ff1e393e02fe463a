"""The declared steps of a checkpoint give what transformers' own processors give, on pictures, sounds and texts of every shape."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import transformers
from PIL import Image
from waves import tone, wav

from outrider_engine.tokenizing import encoders_from
from outrider_export.huggingface.images import PROCESSORS, image_inputs
from outrider_export.huggingface.sounds import EXTRACTORS, sound_inputs
from outrider_export.huggingface.texts import text_inputs
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput
from outrider_wire.sounds import decode_wav
from outrider_wire.steps import Preparer

SIZES = ((37, 53), (64, 64), (91, 40), (20, 16), (300, 211))


def picture(height: int, width: int) -> Image.Image:
    """Smooth colours and some noise."""
    rng = np.random.default_rng(height * width)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    return Image.fromarray((ramp + rng.integers(0, 16, (height, width, 3))).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def prepared(inputs: list[ModelInput], value: bytes | str, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    return Preparer(inputs, **options).prepare({inputs[0].part: value})


VARIED: dict[str, list[dict[str, Any]]] = {
    "ViTImageProcessor": [{"size": {"height": 24, "width": 32}}, {"resample": 3, "do_rescale": False, "size": {"height": 8, "width": 8}}],
    "DeiTImageProcessor": [{"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}}],
    "CLIPImageProcessor": [{"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 28}}],
    "BitImageProcessor": [{"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 25}}],
    "ConvNextImageProcessor": [{"size": {"shortest_edge": 32}}, {"size": {"shortest_edge": 384}}],
    "LevitImageProcessor": [{"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}],
    "PoolFormerImageProcessor": [{"size": {"shortest_edge": 27}, "crop_size": {"height": 24, "width": 24}}],
    "EfficientNetImageProcessor": [
        {"size": {"height": 33, "width": 33}},
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False},
    ],
    "MobileViTImageProcessor": [{"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 28}}],
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_processor_and_its_declared_steps_give_the_same_pixels(name: str) -> None:
    for changed in [{}, *VARIED.get(name, [])]:
        processor = getattr(transformers, name)(**changed)
        settings = {**processor.to_dict(), "image_processor_type": name}
        inputs = image_inputs(settings, part="p", tensor="pixel_values")
        for height, width in SIZES:
            image = picture(height, width)
            theirs = processor(image, return_tensors="np")["pixel_values"][0]
            ours = prepared(inputs, png(image))["pixel_values"]
            assert ours.shape == theirs.shape, (name, changed, height, width)
            assert np.abs(ours - theirs).max() < 1e-5 * max(1.0, np.abs(theirs).max()), (name, changed, height, width)


def test_a_grey_picture_is_taken_as_its_processor_takes_it() -> None:
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, do_convert_rgb=True)
    inputs = image_inputs({**processor.to_dict(), "image_processor_type": "ViTImageProcessor"}, part="p", tensor="t")
    grey = picture(30, 40).convert("L")
    assert (
        np.abs(prepared(inputs, png(grey))["t"] - processor(grey, return_tensors="np")["pixel_values"][0]).max() < 1e-5
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_processor_type": "DonutImageProcessor"}, "'DonutImageProcessor' has no declared steps"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 9}}, "longest_edge"),
        (
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 9}, "rescale_factor": 1.0},
            "different sizes",
        ),
    ],
)
def test_what_has_no_declared_steps_is_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(OperatorConfigError, match=says):
        image_inputs(settings, part="p", tensor="t")


def test_a_strip_that_would_grow_without_bound_is_refused() -> None:
    processor = transformers.CLIPImageProcessor()
    inputs = image_inputs({**processor.to_dict(), "image_processor_type": "CLIPImageProcessor"}, part="p", tensor="t")
    with pytest.raises(Exception, match="too narrow a strip"):
        prepared(inputs, png(Image.new("RGB", (60_000, 1))))


EXTRACTED: dict[str, list[dict[str, Any]]] = {
    "ASTFeatureExtractor": [
        {"max_length": 60, "num_mel_bins": 40},
        {"max_length": 20, "num_mel_bins": 64, "do_normalize": False},
    ],
    "Wav2Vec2FeatureExtractor": [{}, {"do_normalize": False}, {"return_attention_mask": True}],
    "WhisperFeatureExtractor": [{"chunk_length": 2}, {"chunk_length": 1, "feature_size": 128}],
}


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.7])
def test_a_feature_extractor_and_its_declared_steps_give_the_same_numbers(name: str, seconds: float) -> None:
    file = wav(tone(440, seconds=seconds, noise=0.05))
    samples = decode_wav(file, part="p").samples
    for changed in EXTRACTED[name]:
        extractor = getattr(transformers, name)(**changed)
        settings = {**extractor.to_dict(), "feature_extractor_type": name}
        asked = {"padding": "max_length", "max_length": 16_000, "truncation": True} if name.startswith("Wav2") else {}
        theirs = extractor(samples, sampling_rate=16_000, return_tensors="np", **asked)
        tensors = dict.fromkeys(theirs, (None,))
        ours = prepared(sound_inputs(settings, part="p", tensors=tensors, seconds=1.0), file)
        assert set(ours) == set(theirs)
        for tensor, expected in theirs.items():
            assert ours[tensor].shape == expected[0].shape, (changed, tensor)
            assert np.abs(ours[tensor] - expected[0]).max() < 2e-4, (changed, tensor)


def test_an_extractor_without_declared_steps_is_refused_by_name() -> None:
    with pytest.raises(OperatorConfigError, match="'ClapFeatureExtractor' has no declared steps"):
        sound_inputs({"feature_extractor_type": "ClapFeatureExtractor"}, part="p", tensors={"input_features": ()})


TEXTS = ("a goal in the last minute", "", "unknown letters: żółw", "atoms votes " * 40, "sport\n\tscience  politics!")


def test_a_tokenizer_and_its_declared_steps_give_the_same_numbers(tmp_path: Path) -> None:
    tiny_checkpoints.text_classifier(tmp_path, ["a", "b"])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    for length in (None, 8):
        found = text_inputs(tmp_path, {"max_position_embeddings": 64}, part="p", tensors=names, tokens=length)
        encoders = encoders_from(found.inputs, found.files)
        for text in TEXTS:
            expected = theirs(text, padding="max_length", truncation=True, max_length=length or 64, return_tensors="np")
            ours = prepared(found.inputs, text, encoders=encoders)
            for name in names:
                assert ours[name].dtype == np.int64
                assert ours[name].tolist() == expected[name][0].tolist(), (name, text)


def test_a_text_of_unknown_words_alone_is_named_as_unread(tmp_path: Path) -> None:
    tiny_checkpoints.text_classifier(tmp_path, ["a", "b"])
    found = text_inputs(tmp_path, {}, part="p", tensors=["input_ids", "attention_mask", "token_type_ids"], tokens=8)
    preparer = Preparer(found.inputs, encoders=encoders_from(found.inputs, found.files))
    assert preparer.unread(preparer.prepare({"p": "żółw 这是什么"})) == ("p",)
    assert preparer.unread(preparer.prepare({"p": "żółw sport"})) == ()
