"""What must not leave in a text, taken out of it: named patterns and a task's own. Knows no task and keeps no content."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from outrider_wire.patterns import Expression, Pattern

Known = Literal["email", "phone", "number"]
MOST_TEXT = 65_536
"""Characters of a text that is searched; a longer one does not leave at all."""


class Redacted(NamedTuple):
    """A text without what was asked to be taken out, and how often each pattern was met."""

    text: str
    counts: Counter[str]


class _Fixed:
    """An expression of our own for `re`: each repeat takes all it can and gives nothing back, so that no text makes it slow."""

    def __init__(self, source: str) -> None:
        self._search = re.compile(source)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """As `outrider_wire.patterns.Pattern.spans`."""
        return (found.span() for found in self._search.finditer(text))


KNOWN: dict[Known, Pattern] = {
    "email": _Fixed(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)++"),
    "phone": _Fixed(r"\+?\(?\d(?:[ ()./-]{0,3}+\d){6,}+"),
    "number": _Fixed(r"\d++(?:[.,]\d++)*+"),
}
"""``phone``: seven digits and more, with what people write between them. Digits are those of any script."""


class Redactor:
    """Takes out what any of its patterns matches; ``[NAME]`` stands in its place.

    Args:
        known: names of `KNOWN`.
        own: further expressions by name, as `outrider_wire.patterns` reads them.

    Raises:
        ValueError: an own expression is not one.
    """

    def __init__(self, known: Sequence[Known], own: Mapping[str, str]) -> None:
        self._patterns: list[tuple[str, Pattern]] = [(name, Expression(source)) for name, source in own.items()]
        self._patterns += [(name, KNOWN[name]) for name in KNOWN if name in known]

    def __bool__(self) -> bool:
        """Whether it looks for anything."""
        return bool(self._patterns)

    def redact(self, text: str) -> Redacted:
        """The text without every match. Where matches overlap, all they cover goes, under the first one's name.

        Raises:
            ValueError: the text is longer than `MOST_TEXT`.
        """
        if len(text) > MOST_TEXT:
            raise ValueError(f"it has {len(text)} characters, more than the {MOST_TEXT} that are searched")
        kept: list[str] = []
        counts: Counter[str] = Counter()
        done = 0
        for start, end, name in self._merged(text):
            kept += [text[done:start], f"[{name}]"]
            counts[name] += 1
            done = end
        return Redacted("".join([*kept, text[done:]]), counts)

    def _merged(self, text: str) -> list[tuple[int, int, str]]:
        found = [
            (start, end, place)
            for place, (_, pattern) in enumerate(self._patterns)
            for start, end in pattern.spans(text)
        ]
        merged: list[tuple[int, int, str]] = []
        for start, end, place in sorted(found):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
            else:
                merged.append((start, end, self._patterns[place][0]))
        return merged


def pseudonym(text: str, *, key: str) -> str:
    """A name for a text that nobody without the key can find it by; the same for the same text."""
    secret = hashlib.blake2b(key.encode(), digest_size=32).digest()
    return "p-" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=secret, digest_size=12).hexdigest()
