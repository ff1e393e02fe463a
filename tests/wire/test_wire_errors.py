"""The tree of errors is the one that is drawn, and each says what to do."""

import re

import pytest

from outrider_wire import errors
from outrider_wire.errors import CallerInputError, OutriderError

CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_every_error_is_drawn_under_its_parent() -> None:
    drawn: dict[str, int] = {}
    parents: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"( *[│├└─ ]*)(\w+Error)\b", line):
            depth = len(found[1])
            above = [name for name, its in drawn.items() if its < depth]
            parents[found[2]] = above[-1] if above else "Exception"
            drawn = {name: its for name, its in drawn.items() if its < depth} | {found[2]: depth}
    assert parents == {name: kind.__mro__[1].__name__ for name, kind in CLASSES.items()}


def test_a_sentence_says_what_is_wrong_and_what_to_do() -> None:
    error = OutriderError("the port is taken", reason="port_taken", fix="choose another with --port")
    assert str(error) == "the port is taken; choose another with --port"
    assert str(OutriderError("it is so", reason="so")) == "it is so"


def test_a_callers_error_names_the_part() -> None:
    assert CallerInputError("too large", reason="too_large", part="image").part == "image"


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_has_an_exit_code_that_a_script_can_read(name: str) -> None:
    assert 1 <= CLASSES[name].exit_code <= 5
