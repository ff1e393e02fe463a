"""The steps of texts: hashed words and letters, tokens of a tokenizer file. Rows of `outrider_wire.step_table`."""

import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from outrider_wire.errors import CallerInputError
from outrider_wire.step import Flow, Function, StepOp

_WORDS = re.compile(r"[a-z]+")
_TOKENS = 1 << 20
_CHARACTERS = 8192
_CHARACTERS_A_TOKEN = 64


class HashedWords(StepOp, kw_only=True, frozen=True):
    """Text → counts of its lower-case a–z words (and pairs of neighbours, and runs of ``letters``) by CRC-32 modulo ``buckets``.

    A text without one such word (another script, digits, blanks) gives zeros: that is an input the model may get, and
    `outrider_wire.steps.Preparer.unread` names it, so that the acceptance rule can refuse to answer it.
    """

    takes = frozenset({"raw"})
    buckets: Annotated[int, Meta(ge=1, le=1 << 20)]
    bigrams: bool = False
    letters: Annotated[int, Meta(ge=0, le=8)] = 0
    """Runs of so many letters of each word and its two ends: what survives a typing error. 0: none."""

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """A vector of ``buckets`` counts."""
        part, how = flow.part, self
        return lambda value: _hashed(_text(value, part), how), replace(flow, kind="vector", shape=(self.buckets,))


class Tokenize(StepOp, kw_only=True, frozen=True):
    """Text → tokens (length,) by a tokenizer file of the bundle, whose own truncation and padding make that length.

    The tokenizer sees 64 characters a token, and at least 8,192: what it would cut off anyway costs no time, however much is sent.
    A text of nothing but ``silent`` tokens (special ones, padding, unknown words) is one that
    `outrider_wire.steps.Preparer.unread` names.
    """

    takes = frozenset({"raw"})
    file: Annotated[str, Meta(min_length=1, max_length=128)]
    length: Annotated[int, Meta(ge=1, le=4096)]
    gives: Literal["ids", "mask", "types"] = "ids"
    silent: Annotated[tuple[Annotated[int, Meta(ge=0, le=_TOKENS)], ...], Meta(max_length=256)] = ()
    keeps: Literal["start", "end"] = "start"
    """Which end of a longer text is read: the one that the file's truncation leaves."""

    @property
    def characters(self) -> int:
        """Most that the tokenizer sees."""
        return max(_CHARACTERS, _CHARACTERS_A_TOKEN * self.length)

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """The file must be at hand."""
        encode = flow.encoders.get(self.file)
        if encode is None:
            raise ValueError(f"there is no tokenizer {self.file!r} at hand")
        part, length, gives = flow.part, self.length, self.gives
        seen = slice(self.characters) if self.keeps == "start" else slice(-self.characters, None)

        def tokenize(value: bytes | str) -> NDArray[np.int64]:
            text = _text(value, part)[seen]
            try:
                found: list[int] = getattr(encode(text), gives)
            except ValueError as error:
                raise CallerInputError(
                    f"the model's tokenizer cannot read part {part!r}: {error}",
                    reason="text_unreadable",
                    fix="send another text; where every text fails, fetch or build the bundle again",
                    part=part,
                ) from error
            if len(found) != length:
                raise CallerInputError(
                    f"part {part!r} makes {len(found)} tokens, and the model takes {length}",
                    reason="wrong_shape",
                    fix="use a bundle whose tokenizer cuts and pads to the model's length",
                    part=part,
                )
            return np.asarray(found, np.int64)

        silent = frozenset(self.silent) if gives == "ids" else frozenset[int]()
        return tokenize, replace(flow, kind="tokens", shape=(length,), silent=silent)


def _text(value: bytes | str, part: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CallerInputError(
            f"part {part!r} is not UTF-8 text", reason="not_utf8", fix="send text encoded as UTF-8", part=part
        ) from error


def _hashed(text: str, how: HashedWords) -> NDArray[np.float32]:
    words = _WORDS.findall(text.lower())
    counted = list(words)
    if how.bigrams:
        counted += [f"{first}_{second}" for first, second in itertools.pairwise(words)]
    if how.letters:
        counted += [run for word in words for run in _runs(f"<{word}>", how.letters)]
    counts = np.zeros(how.buckets, np.float32)
    for word in counted:
        counts[zlib.crc32(word.encode("ascii")) % how.buckets] += 1.0
    return counts


def _runs(word: str, letters: int) -> Iterator[str]:
    return (word[start : start + letters] for start in range(len(word) - letters + 1))
