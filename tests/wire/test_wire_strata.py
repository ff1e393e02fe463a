"""Which stratum an input is in: whole words, any case, the first that matches, and never an error."""

import pytest

from outrider_wire.errors import OperatorConfigError
from outrider_wire.strata import OTHER, Stratum, stratum_of
from outrider_wire.task import parse_task

STRATA = [
    Stratum(name="colour", part="question", any_of=["what color", "the colour of"]),
    Stratum(name="shape", part="question", any_of=["what shape", "what"]),
]


@pytest.mark.parametrize(
    ("question", "stratum"),
    [
        ("What COLOR is it?", "colour"),
        ("tell me the  colour, of that", "colour"),
        ("what is it", "shape"),
        ("somewhat odd", OTHER),
        ("", OTHER),
        ("какого цвета?", OTHER),
        (b"what color is it", "colour"),
        (b"\xff\xfe what color", "colour"),
    ],
)
def test_the_first_stratum_that_matches_whole_words(question: str | bytes, stratum: str) -> None:
    assert stratum_of(STRATA, {"question": question}) == stratum


def test_the_same_characters_are_looked_at_as_text_and_as_bytes() -> None:
    for text in ("é" * 3000 + " what color", "é" * 4089 + " what color", "é" * 5000 + " what color"):
        assert stratum_of(STRATA, {"question": text}) == stratum_of(STRATA, {"question": text.encode()})


def test_a_phrase_without_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no word"):
        Stratum(name="odd", part="question", any_of=["what", "?"])


def test_without_strata_there_is_none_and_without_the_part_it_is_the_rest() -> None:
    assert stratum_of([], {"question": "what color"}) == ""
    assert stratum_of(STRATA, {}) == OTHER


TASK = """
name = "t"
[[inputs]]
name = "image"
modality = "image"
[[inputs]]
name = "question"
modality = "text"
[answer]
labels = ["a", "b"]
[[strata]]
name = "{name}"
part = "{part}"
any_of = ["x"]
"""


def test_a_task_names_its_strata() -> None:
    [stratum] = parse_task(TASK.format(name="kind", part="question")).strata
    assert (stratum.name, stratum.any_of) == ("kind", ["x"])


@pytest.mark.parametrize(
    ("name", "part", "reason"),
    [("kind", "image", "unknown_part"), ("kind", "site", "unknown_part"), ("other", "question", "duplicate_name")],
)
def test_a_stratum_of_no_text_part_or_by_the_name_of_the_rest_is_refused(name: str, part: str, reason: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        parse_task(TASK.format(name=name, part=part))
    assert caught.value.reason == reason
