"""Published vectors of every step: what goes in, the steps, and what comes out. Whoever prepares inputs in another language checks here.

``OUTRIDER_WRITE_GOLDEN=1`` writes them anew; a change of one is a change of what certified models see.
"""

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from waves import tone, wav

from outrider_wire.manifest import ModelInput, Step
from outrider_wire.step import Encoded
from outrider_wire.steps import STEPS, Preparer, is_whole

FILE = Path(__file__).with_name("golden_steps.json")
WRITE = os.environ.get("OUTRIDER_WRITE_GOLDEN") == "1"
_DECODE = {"op": "decode_image"}
_HEAR = [{"op": "decode_audio"}, {"op": "resample", "args": {"rate": 8000}}]
_MEL = {"op": "log_mel", "args": {"mels": 4, "window": 200, "hop": 100, "transform": 256, "high_hz": 4000.0}}
_FRAMES = {"op": "fit", "args": {"length": 3}}


def picture() -> bytes:
    pixels = np.arange(6 * 9 * 3).reshape(6, 9, 3) * 3 % 256
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


PARTS: Mapping[str, bytes | str] = {
    "picture": picture(),
    "sound": wav(tone(700, seconds=0.05, rate=12_000), rate=12_000),
    "series": np.arange(6, dtype="<f4").tobytes(),
    "text": "Red, or green?",
    "facts": '[{"name":"colour","label":"red","confidence":0.5}]',
    "embedding": np.asarray([0.5, -1], "<f4").tobytes(),
}
CASES: Mapping[str, tuple[str, list[dict[str, Any]], list[int]]] = {
    "area": ("picture", [_DECODE, {"op": "resize", "args": {"height": 2, "width": 3}}], [2, 3, 3]),
    "grey": ("picture", [{"op": "decode_image", "args": {"mode": "L"}}, {"op": "resize", "args": {"height": 1, "width": 2}}], [1, 2, 1]),
    **{
        method: ("picture", [_DECODE, {"op": "resize", "args": {"height": 2, "width": 2, "method": method}}], [2, 2, 3])
        for method in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
    },
    "shortest and crop": (
        "picture",
        [_DECODE, {"op": "resize_shortest", "args": {"side": 3}}, {"op": "center_crop", "args": {"height": 2, "width": 2}}],
        [2, 2, 3],
    ),
    "crop of more": ("picture", [_DECODE, {"op": "center_crop", "args": {"height": 7, "width": 2}}], [7, 2, 3]),
    "colours": (
        "picture",
        [
            _DECODE,
            {"op": "resize", "args": {"height": 1, "width": 2}},
            {"op": "flip_channels"},
            {"op": "scale", "args": {"by": 1 / 255}},
            {"op": "normalize", "args": {"mean": [0.4, 0.5, 0.6], "std": [0.2]}},
            {"op": "channels_first"},
        ],
        [3, 1, 2],
    ),
    "samples": (
        "sound",
        [*_HEAR, {"op": "trim", "args": {"length": 6}}, {"op": "standardize"}, {"op": "fit", "args": {"length": 8}}],
        [8],
    ),
    "mask": ("sound", [*_HEAR, {"op": "trim", "args": {"length": 3}}, {"op": "sample_mask", "args": {"length": 5}}], [5]),
    "log-mel": ("sound", [*_HEAR, _MEL, _FRAMES, {"op": "clamp_below_peak", "args": {"below": 8.0}}, {"op": "one_plane"}], [1, 3, 4]),
    "kaldi": (
        "sound",
        [
            *_HEAR,
            {"op": "log_mel", "args": {**_MEL["args"], "scale": "kaldi", "in_mel": True, "emphasis": 0.97, "without_offset": True}},
            _FRAMES,
            {"op": "transpose"},
        ],
        [4, 3],
    ),
    "slaney": (
        "sound",
        [
            *_HEAR,
            {"op": "log_mel", "args": {**_MEL["args"], "scale": "slaney", "equal_area": True, "centred": True}},
            _FRAMES,
        ],
        [3, 4],
    ),
    "window of numbers": (
        "series",
        [
            {"op": "decode_series", "args": {"channels": 2}},
            {"op": "fit", "args": {"length": 4, "last": True, "value": -1.0}},
            {"op": "normalize", "args": {"mean": [1.0, 2.0], "std": [2.0, 4.0]}},
            {"op": "flatten"},
        ],
        [8],
    ),
    "words": ("text", [{"op": "hashed_words", "args": {"buckets": 11, "bigrams": True}}], [11]),
    "letters": ("text", [{"op": "hashed_words", "args": {"buckets": 13, "letters": 3}}], [13]),
    "tokens": ("text", [{"op": "tokenize", "args": {"file": "tokenizer.json", "length": 4}}], [4]),
    "facts": (
        "facts",
        [{"op": "one_hot_facts", "args": {"subtasks": [{"name": "colour", "labels": ["blue", "red"]}]}}],
        [2],
    ),
    "embedding": ("embedding", [{"op": "embedding", "args": {"size": 2}}], [2]),
}  # fmt: skip


def words(text: str) -> Encoded:
    """A stand-in for a tokenizer file: the length of each word, padded to four."""
    ids = [len(word) for word in text.split()][:4]
    return Encoded(ids + [0] * (4 - len(ids)), [1] * len(ids) + [0] * (4 - len(ids)), [0] * 4)


def made(name: str) -> np.ndarray[Any, Any]:
    part, steps, shape = CASES[name]
    entry = ModelInput(part="p", tensor="t", steps=[Step(**step) for step in steps], shape=shape)
    tensor = Preparer([entry], encoders={"tokenizer.json": words}).prepare({"p": PARTS[part]})["t"]
    assert tensor.dtype == (np.int64 if is_whole(entry) else np.float32)
    return tensor


def test_every_step_of_the_table_has_a_vector() -> None:
    assert {step["op"] for _, steps, _ in CASES.values() for step in steps} == set(STEPS)


def test_the_vectors_are_the_published_ones() -> None:
    vectors = {}
    for name, (part, steps, shape) in CASES.items():
        value = PARTS[part]
        given = {"text": value} if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        vectors[name] = {
            "part": given,
            "steps": steps,
            "shape": shape,
            "gives": [round(float(n), 5) for n in made(name).ravel()],
        }
    if WRITE:
        FILE.write_text(json.dumps(vectors, indent=1) + "\n")
    published = json.loads(FILE.read_text())
    assert {name: {**entry, "gives": None} for name, entry in published.items()} == {
        name: {**entry, "gives": None} for name, entry in vectors.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_step_gives_what_was_published(name: str) -> None:
    expected = np.asarray(json.loads(FILE.read_text())[name]["gives"]).reshape(CASES[name][2])
    assert np.abs(made(name) - expected).max() <= 1e-4
