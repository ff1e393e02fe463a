"""Tokenizer files of a bundle become what turns texts into tokens. Knows the library ``tokenizers``, and imports it only for them.

A file holds its own truncation and padding, so that every text makes tokens of one length.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from outrider_wire.errors import BundleDamagedError, OperatorSetupError
from outrider_wire.manifest import ModelInput
from outrider_wire.step import Encode, Encoded

INSTALL = "pip install outrider[text]"
TOKENIZER_BYTES = 32 * 1024 * 1024
"""Of one file; the largest multilingual vocabularies have 17 MB."""


def encoders_of(inputs: Iterable[ModelInput], read: Callable[[str], bytes]) -> dict[str, Encode]:
    """What each tokenizer file that ``inputs`` name does to a text; ``read`` gives a file's bytes by its name.

    Raises:
        BundleDamagedError: one is no tokenizer.
        OperatorSetupError: the library is missing.
    """
    steps = (step for entry in inputs for step in entry.steps if step.op == "tokenize")
    names = sorted({str(step.args.get("file", "")) for step in steps})
    return {name: open_tokenizer(read(name), name) for name in names}


def encoders_from(inputs: Iterable[ModelInput], files: Mapping[str, bytes]) -> dict[str, Encode]:
    """As `encoders_of`, of files at hand; a file that is missing is left out, and whatever compiles the step says so."""
    wanted = list(inputs)
    known = [entry for entry in wanted if all(str(step.args.get("file", "")) in files for step in entry.steps[:1])]
    return encoders_of(known, files.__getitem__)


def open_tokenizer(data: bytes, name: str = "tokenizer.json") -> Encode:
    """What a ``tokenizer.json`` of the library ``tokenizers`` does to a text.

    What it gives raises `ValueError` for a text that the tokenizer fails on: it has read one before it came so far, and a stranger's
    text must not be held against the release.

    Raises:
        BundleDamagedError: it is none, cannot read a single word, or is larger than `TOKENIZER_BYTES`.
        OperatorSetupError: the library is missing.
    """
    if len(data) > TOKENIZER_BYTES:
        raise _damaged(name, f"has {len(data)} bytes, more than {TOKENIZER_BYTES}")
    try:
        library = importlib.import_module("tokenizers")  # here, since a device without texts need not have it
    except ImportError as error:
        raise OperatorSetupError(
            "this model reads text by a tokenizer, and the library tokenizers is not installed",
            reason="no_tokenizers",
            fix=INSTALL,
        ) from error
    try:
        tokenizer = _guarded(lambda: library.Tokenizer.from_str(data.decode("utf-8")))
        _guarded(lambda: tokenizer.encode("a"))
    except _FailedError as error:
        raise _damaged(name, f"does not work: {error}") from error
    last: tuple[str, Encoded] | None = None

    def encode(text: str) -> Encoded:
        nonlocal last
        if last is None or last[0] != text:  # ids, mask and types of one text are asked for one after the other
            found = _guarded(lambda: tokenizer.encode(text))
            last = (text, Encoded(found.ids, found.attention_mask, found.type_ids))
        return last[1]

    return encode


class _FailedError(ValueError):
    """The library could not; its own words."""


def _guarded(call: Callable[[], Any]) -> Any:
    """The library's errors share no base, and a panic in its Rust code is not even an ``Exception``."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # as above
        raise _FailedError(str(error)[:300]) from error


def _damaged(name: str, what: str) -> BundleDamagedError:
    return BundleDamagedError(
        f"the tokenizer file {name[:128]!r} {what}", reason="tokenizer_unusable", fix="fetch or build the bundle again"
    )
