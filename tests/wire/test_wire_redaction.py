"""What is taken out of texts, and that no pattern and no text makes the search slow."""

import itertools
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from outrider_wire.patterns import AHEAD, MOST_KNOWN, Expression
from outrider_wire.redaction import MOST_TEXT, Redactor, pseudonym

EVERY = Redactor(["email", "phone", "number"], {"plate": "[A-Z]{1,3}-[0-9]{1,4}"})

TAKEN_OUT = {
    "write to ann.b+c@mail.example.org now": "write to [email] now",
    "Ann@example.org, bob@x.io": "[email], [email]",
    "call +49 (0)30 / 123-4567 today": "call [phone] today",
    "call (030) 1234567": "call [phone]",
    "room 12, 3.50 each": "room [number], [number] each",
    "٣٤٥ metres": "[number] metres",
    "car B-1234 left": "car [plate] left",
    "nothing of that kind": "nothing of that kind",
    "": "",
}


@pytest.mark.parametrize("text", TAKEN_OUT)
def test_what_a_pattern_names_is_taken_out(text: str) -> None:
    found = EVERY.redact(text)
    assert found.text == TAKEN_OUT[text]
    assert sum(found.counts.values()) == found.text.count("[")


def test_what_overlaps_goes_as_a_whole() -> None:
    redactor = Redactor(["number"], {"id": "[A-Z]+[0-9]{2}"})
    assert redactor.redact("case AB1234 closed").text == "case [id] closed"


def test_a_text_that_is_too_long_to_search_is_refused() -> None:
    with pytest.raises(ValueError, match="searched"):
        EVERY.redact("a" * (MOST_TEXT + 1))


NO_EXPRESSION = {
    "(": "closed",
    "a)": "closes nothing",
    "[a": "too early",
    "[]": "takes nothing",
    "[z-a]": "backwards",
    "a**": "count follows",
    "a{3,1}": "counts nothing",
    "*a": "no meaning",
    "^a": "no meaning",
    r"\bword": "no anchors",
    r"(a)\1": "back-references",
    "(?=a)b": "look-around",
    "a*": "empty text",
    "(a{200}){200}": "too large",
    "a" * 300: "300 characters",
    "a\\": "too early",
}


@pytest.mark.parametrize("source", NO_EXPRESSION)
def test_what_is_not_an_expression_says_why(source: str) -> None:
    with pytest.raises(ValueError, match=NO_EXPRESSION[source]):
        Expression(source)


ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", r"\w", "(?:ab|b)", "(a|bc)", "c"])
COUNTS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "{2,}"])
EXPRESSIONS = st.lists(st.tuples(ATOMS, COUNTS), min_size=1, max_size=4).map(
    lambda items: "".join(a + c for a, c in items)
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, st.text(alphabet="abc1 \n", max_size=40))
def test_it_finds_what_the_usual_engine_finds(source: str, text: str) -> None:
    """Where `re` matches at all, and from the same start; ours is the longest there, which of two options `re` need not give."""
    assume(not re.fullmatch(source, ""))
    found = list(Expression(source).spans(text))
    usual = re.search(source, text)
    assert bool(found) == (usual is not None)
    if usual is not None:
        assert found[0][0] == usual.start() and found[0][1] >= usual.end()
        assert re.fullmatch(source, text[found[0][0] : found[0][1]])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(found))


def test_nothing_that_makes_the_usual_engine_exponential_does_so_here() -> None:
    """`re` needs 2^40 steps for the first. A step is counted when it was not met before: their number is bounded by the pattern."""
    for source in ("(a|aa)+b", "(a+)+b", "([a-z]+)*[0-9]", "(.*a){8}b"):
        expression = Expression(source)
        assert list(expression.spans("a" * 20_000)) == []
        assert expression.steps < 100


def test_memory_stays_bounded_whatever_characters_come() -> None:
    expression = Expression("x[^y]{3}z")
    list(expression.spans("".join(map(chr, range(0x4E00, 0x4E00 + MOST_KNOWN + 5000)))))
    assert expression.steps <= 2 * MOST_KNOWN


def test_a_match_is_as_long_as_it_is_and_looked_for_no_further_than_so_many_characters() -> None:
    assert list(Expression("a+").spans("a" * (3 * AHEAD))) == [(0, 3 * AHEAD)]
    assert list(Expression("a(b*c)?").spans("a" + "b" * (AHEAD - 2) + "c")) == [(0, AHEAD)]
    assert list(Expression("a(b*c)?").spans("a" + "b" * (AHEAD + 2) + "c")) == [(0, 1)]


def test_case_is_ignored_where_it_is_asked_for() -> None:
    assert Redactor([], {"name": "(?i)mrs? [a-zäöü]+"}).redact("MR MÜLLER and mrs. x").text == "[name] and mrs. x"


def test_a_pseudonym_is_the_same_for_the_same_text_and_key_alone() -> None:
    assert pseudonym("ann@example.org", key="k") == pseudonym("ann@example.org", key="k")
    assert len({pseudonym(text, key=key) for text in ("a", "b") for key in ("k", "l")}) == 4
    assert "ann" not in pseudonym("ann", key="k")


LONG = {
    "a secret of 400 characters": ("token=" + "a1B2" * 100, Redactor([], {"token": "token=[A-Za-z0-9]+"}), "[token]"),
    "the same, found by its end": ("x" * 900 + "!", Redactor([], {"cry": "x+!"}), "[cry]"),
    "an address with a long name": ("n" * 500 + "@example.org", Redactor(["email"], {}), "[email]"),
    "an address with long labels": ("ann@" + "d" * 200 + ".example.org", Redactor(["email"], {}), "[email]"),
    "an address of many labels": ("ann@a" + ".b" * 40, Redactor(["email"], {}), "[email]"),
    "twenty-two digits": ("0123456789012345679012", Redactor(["phone"], {}), "[phone]"),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_match_goes_as_a_whole(name: str) -> None:
    text, redactor, left = LONG[name]
    assert redactor.redact(f"<{text}>").text == f"<{left}>"


SLOW = {
    "what might match to the end, again and again": ("a" * MOST_TEXT, "a([ab]*c)?"),
    "a beginning without an end": ("n" * MOST_TEXT, "n+@"),
    "a match as long as the text": ("a" * MOST_TEXT, "a+"),
}


@pytest.mark.parametrize("name", SLOW)
def test_longer_matches_stay_linear(name: str) -> None:
    """Counted in steps, not in time: a walk along the text for every character of it would be four thousand millions."""
    text, source = SLOW[name]
    steps = 0

    class Counted(str):
        def __getitem__(self, key: object) -> str:  # type: ignore[override]  # counts what is looked at, one by one
            nonlocal steps
            steps += 1
            return str.__getitem__(self, key)  # type: ignore[index]  # as above

    list(Expression(source).spans(Counted(text)))
    assert steps < 2 * (AHEAD + 2) * MOST_TEXT
