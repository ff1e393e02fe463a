"""Tokenizer files of a bundle: used as they are, refused when they are none, and not needed where no text is read."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from outrider_engine.tokenizing import TOKENIZER_BYTES, encoders_from, encoders_of, open_tokenizer
from outrider_wire.errors import BundleDamagedError, CallerInputError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.step import Encoded
from outrider_wire.steps import Preparer


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


def test_a_tokenizer_that_reads_nothing_is_the_bundles_fault() -> None:
    with pytest.raises(BundleDamagedError, match="does not work"):
        open_tokenizer(tokenizer(model={"type": "WordLevel", "vocab": {"red": 2}, "unk_token": "[UNK]"}))


def test_a_text_that_a_working_tokenizer_fails_on_is_the_callers_and_names_its_part() -> None:
    """Held against the release, a stranger's text would roll an update back."""
    encode = open_tokenizer(tokenizer(model={"type": "WordLevel", "vocab": {"a": 2, "[PAD]": 0}, "unk_token": "[UNK]"}))
    with pytest.raises(CallerInputError) as refused:
        Preparer(READS, encoders={"a.json": encode}).prepare({"p": "blue"})
    assert (refused.value.reason, refused.value.part) == ("text_unreadable", "p")
    assert encode("a").ids == [2, 0, 0], "and the next text is read"


def test_a_panic_in_the_library_is_the_callers_error_and_not_the_workers_end() -> None:
    """A pattern that backtracks without end makes the library's engine give up, which it answers by a panic."""
    hungry = {"type": "Split", "pattern": {"Regex": "(?:a|a)+$"}, "behavior": "Isolated", "invert": False}
    encode = open_tokenizer(tokenizer(pre_tokenizer=hungry))
    with pytest.raises(CallerInputError) as refused:
        Preparer(READS, encoders={"a.json": encode}).prepare({"p": "a" * 40 + "!"})
    assert refused.value.reason == "text_unreadable"


HOSTILE = {
    "one letter": "a" * (1 << 20),
    "blanks": " " * (1 << 20),
    "null bytes": "\0" * (1 << 20),
    "marks on one letter": "e" + "\u0301\u0316" * (1 << 19),
    "joined emoji": "\N{MAN}\N{ZERO WIDTH JOINER}" * (1 << 19),
    "right to left marks": "\u202e" * (1 << 20),
    "no spaces": "\u4e2d" * (1 << 20),
    "punctuation": "!" * (1 << 20),
}


def trained(kind: str) -> bytes:
    """A tokenizer as language models have them, that has learnt a few words."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model, trainer, before = {
        "bpe": (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False),
            pre_tokenizers.ByteLevel(),
        ),
        "unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", show_progress=False),
            pre_tokenizers.Metaspace(),
        ),
        "wordpiece": (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False),
            pre_tokenizers.BertPreTokenizer(),
        ),
    }[kind]
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer, made.normalizer = before, normalizers.NFKC()
    made.train_from_iterator(["a goal in the last minute", "votes and atoms of the small model"] * 20, trainer)
    made.enable_truncation(3)
    made.enable_padding(length=3)
    data: str = made.to_str()
    return data.encode()


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_a_megabyte_of_nonsense_costs_a_tokenizer_what_a_page_costs(kind: str) -> None:
    """By this process's own time on the processor: of a text of the bound, and of one a hundred times as long."""
    preparer = Preparer(READS, encoders={"a.json": open_tokenizer(trained(kind))})
    for name, text in HOSTILE.items():
        page = _seconds(lambda text=text: preparer.prepare({"p": text[:8192]}))
        whole = _seconds(lambda text=text: preparer.prepare({"p": text}))
        assert preparer.prepare({"p": text})["t"].shape == (3,)
        assert whole < 20 * page + 0.05, f"{name}: {page:.4f} s for a page, {whole:.4f} s for a megabyte"


def _seconds(call: Callable[[], object]) -> float:
    """The least of three."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


def test_of_a_longer_text_the_end_is_read_where_the_file_keeps_that() -> None:
    encode = open_tokenizer(tokenizer())
    text = "red " * 4000 + "blue"
    for keeps, ids in (("start", [2, 2, 2]), ("end", [2, 2, 2])):
        step = Step(op="tokenize", args={"file": "a.json", "length": 3, "keeps": keeps})
        seen: list[str] = []

        def listening(shown: str, seen: list[str] = seen) -> Encoded:
            seen.append(shown)
            return encode(shown)

        inputs = [ModelInput(part="p", tensor="t", steps=[step], shape=[3])]
        assert Preparer(inputs, encoders={"a.json": listening}).prepare({"p": text})["t"].tolist() == ids
        assert [len(each) for each in seen] == [8192]
        assert seen[0].endswith("blue") == (keeps == "end")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"caf\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_bytes_that_are_no_utf8_are_refused_before_a_tokenizer_sees_them(data: bytes) -> None:
    def never(text: str) -> Encoded:
        raise AssertionError(text)

    with pytest.raises(CallerInputError) as refused:
        Preparer(READS, encoders={"a.json": never}).prepare({"p": data})
    assert refused.value.reason == "not_utf8"


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
