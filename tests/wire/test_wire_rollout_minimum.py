"""How people write what must finish of a stage, and what that comes to. Pure."""

import pytest

from outrider_wire.errors import CallerInputError
from outrider_wire.rollout import Group, must_finish
from outrider_wire.rollout_text import FLOOR, minimum_text, parse_groups, parse_minimum

SHARED = Group(name="stage", minimum=FLOOR, minimum_share=0.6)


@pytest.mark.parametrize(
    ("ordered", "awake", "must"),
    [(0, 0, 1), (1, 1, 1), (2, 2, 2), (3, 3, 3), (5, 5, 3), (10, 10, 6), (100, 100, 60), (100, 30, 18), (100, 0, 3)],
)
def test_a_share_is_of_those_that_are_awake_and_no_fewer_than_the_floor(ordered: int, awake: int, must: int) -> None:
    assert must_finish(SHARED, ordered=ordered, awake=awake) == must


def test_a_count_is_that_count_whatever_the_stage_has() -> None:
    assert must_finish(Group(name="stage", minimum=20), ordered=5, awake=5) == 20


@pytest.mark.parametrize("text", ["60%", "100%", "12.5%", "1", "20", "1000000"])
def test_what_is_written_comes_back(text: str) -> None:
    group = parse_groups("5%,100%", minimum=text)[0]
    assert minimum_text(group) == text
    assert (group.minimum == FLOOR) == text.endswith("%")


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "1000001", "a few", "60 %", "0.6", "9" * 5000])
def test_what_is_no_minimum_is_refused(text: str) -> None:
    with pytest.raises(CallerInputError):
        parse_minimum(text)


def test_unless_a_person_says_otherwise_it_is_a_share() -> None:
    assert parse_groups("100%")[0].minimum_share == 0.6
