"""Tokenizer files of a bundle: used as they are, refused when they are none, and not needed where no text is read."""

import json
import subprocess
import sys

import pytest

from outrider_engine.tokenizing import TOKENIZER_BYTES, encoders_from, encoders_of, open_tokenizer
from outrider_wire.errors import BundleDamagedError
from outrider_wire.manifest import ModelInput, Step


def tokenizer(**changes: object) -> bytes:
    """A word-level tokenizer that cuts and pads to three."""
    made = {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 3}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "red": 2}, "unk_token": "[UNK]"},
    }  # fmt: skip
    return json.dumps({**made, **changes}).encode()


READS = [ModelInput(part="p", tensor="t", steps=[Step(op="tokenize", args={"file": "a.json", "length": 3})], shape=[3])]
PICTURES = [ModelInput(part="p", tensor="t", steps=[Step(op="decode_image")], shape=[1, 1, 3])]


def test_a_text_becomes_ids_and_a_mask_of_the_files_own_length() -> None:
    encode = open_tokenizer(tokenizer())
    assert encode("red what") == ([2, 1, 0], [1, 1, 0], [0, 0, 0])
    assert encode("red red red red").ids == [2, 2, 2]
    assert encode("").mask == [0, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        tokenizer(model={"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "[UNK]"}),
        tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
        b" " * (TOKENIZER_BYTES + 1),
    ],
    ids=["empty", "bare", "no text", "nested", "negative", "bad pattern", "too large"],
)
def test_what_is_no_tokenizer_is_a_damaged_bundle(data: bytes) -> None:
    with pytest.raises(BundleDamagedError) as damaged:
        open_tokenizer(data)
    assert damaged.value.reason == "tokenizer_unusable"


def test_a_tokenizer_that_fails_on_a_text_is_the_bundles_fault() -> None:
    encode = open_tokenizer(tokenizer(model={"type": "WordLevel", "vocab": {"red": 2}, "unk_token": "[UNK]"}))
    with pytest.raises(BundleDamagedError):
        encode("blue")


def test_only_the_files_that_steps_name_are_read() -> None:
    read: list[str] = []

    def reader(name: str) -> bytes:
        read.append(name)
        return tokenizer()

    assert set(encoders_of(READS + PICTURES, reader)) == {"a.json"}
    assert read == ["a.json"]
    assert encoders_from(READS, {}) == {}


def test_a_model_of_pictures_needs_no_tokenizer_library() -> None:
    code = "import sys; sys.modules['tokenizers'] = None; import outrider_engine.model"
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    assert encoders_of(PICTURES, lambda name: b"") == {}


def test_without_the_library_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from outrider_wire.errors import OperatorSetupError

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(OperatorSetupError, match=r"outrider\[text\]"):
        open_tokenizer(tokenizer())
