"""A device's text inside a prompt: one line, which it cannot end, free of what a model reads as anything but text. Pure.

A prompt has one channel, so that no wording makes it safe (arXiv 2302.12173); what holds is that the answer can only be a label.
This takes away the cheap ways: to begin a block of its own, to speak as another role of the chat, to say what nobody sees. To a
model of 135 million parameters, lines between marks (``<<<``) cost most of its accuracy, and one line cost none.
"""

import re
import unicodedata

TEXT_CHARACTERS = 65_536
"""Longest text of one part that is asked about."""
LINE_END = " \u23ce "
"""What stands for the end of a line: a prompt's own lines are its only marks."""

_ANGLES = "<>\uff1c\uff1e\ufe64\ufe65\u2039\u203a\u27e8\u27e9\u3008\u3009"
_ROLE = re.compile(
    rf"(?<=[{_ANGLES}])(?=[|\uff5c/{_ANGLES}a-zA-Z_])"
    r"|(?<=\[)(?=/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_)[A-Z_]*\])"
    rf"|(?<=[|\uff5c])(?=[{_ANGLES}])"
)
"""Inside of what begins or ends a turn in some chat template: ``<|im_end|>``, ``</s>``, ``[INST]``, ``<<SYS>>``."""
_JOINED = "\t\u200c\u200d"
"""Kept: scripts and emoji are written with joiners."""
_SPLIT = re.compile(rf"(?<=[|\uff5c/\[{_ANGLES}])[\u200c\u200d]+|[\u200c\u200d]+(?=[|\uff5c/\]{_ANGLES}])")
"""Joiners that would hide a role."""
_LINE_ENDS = re.compile("[ \t]*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029][\\s\u2028\u2029]*")


def quoted(text: str) -> str:
    """``text`` as it may stand in a prompt: without characters that are not seen, with a space inside of what could be taken
    for a role, and in one line."""
    line = _LINE_ENDS.sub(LINE_END, text.strip())
    seen = "".join(each for each in line if each in _JOINED or not _unseen(each))
    return _ROLE.sub(" ", _SPLIT.sub("", seen))


def _unseen(character: str) -> bool:
    """Controls, and formats: what turns the direction of writing, has no width, or is a tag (Unicode, chapter 23)."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
