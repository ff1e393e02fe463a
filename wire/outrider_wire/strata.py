"""Strata: kinds of input that are known before there is an answer, each certified apart. Pure; knows no scores.

A certificate over everything together may hide that one kind of question is mostly wrong. Where a task names strata,
every stratum gets its own threshold under its own test, and one that cannot be certified always escalates.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated

from msgspec import Meta, Struct

from outrider_wire.names import Name

OTHER = "other"
"""Whatever no stratum matches."""
_MOST = 4096
"""Characters that are looked at."""
_WORD = re.compile(r"\w+")
Phrase = Annotated[str, Meta(min_length=1, max_length=128)]


class Stratum(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Inputs whose text part contains one of these phrases, as whole words and whatever the case."""

    name: Name
    part: Name
    any_of: Annotated[list[Phrase], Meta(min_length=1, max_length=64)]

    def __post_init__(self) -> None:
        """Refuses a phrase without a word, which would match nothing, or everything."""
        if empty := [phrase for phrase in self.any_of if not _WORD.search(phrase)]:
            raise ValueError(f"{empty[0]!r} holds no word")


def stratum_of(strata: Sequence[Stratum], parts: Mapping[str, bytes | str]) -> str:
    """The first stratum that matches, `OTHER` where none does; '' without strata."""
    if not strata:
        return ""
    texts: dict[str, str] = {}
    for stratum in strata:
        if stratum.part not in texts:
            texts[stratum.part] = _words(_text(parts.get(stratum.part, "")))
        if any(_words(phrase) in texts[stratum.part] for phrase in stratum.any_of):
            return stratum.name
    return OTHER


def _text(value: bytes | str) -> str:
    """The same characters, whether they come as text or as UTF-8."""
    plain = value if isinstance(value, str) else bytes(value[: 4 * _MOST]).decode("utf-8", "replace")
    return plain[:_MOST]


@lru_cache(maxsize=1024)
def _words(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.casefold()))} "
