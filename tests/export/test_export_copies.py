"""Which rows are one input: equal in every part, whatever the table, the place or the group."""

import pytest

from outrider_export.copies import check_copies, check_counted_once, without_copies
from outrider_export.data import Example, Table
from outrider_wire.errors import RuleRefusalError


def table(*rows: tuple[bytes, str, str]) -> Table:
    """Rows of (image, question, group)."""
    return Table.from_examples(Example({"image": image, "question": asked}, 0, group) for image, asked, group in rows)


def test_an_image_under_another_question_is_no_copy_and_the_same_question_is() -> None:
    tuning = table((b"street", "how many cars?", "a"), (b"yard", "is it wet?", "b"))
    check_copies(tuning, table((b"street", "is it wet?", "c"), (b"yard", "how many cars?", "d")))
    with pytest.raises(RuleRefusalError) as raised:
        check_copies(tuning, table((b"dock", "is it wet?", "c"), (b"street", "how many cars?", "d")))
    assert raised.value.reason == "roles_overlap"


def test_tables_taken_from_one_are_compared_by_the_rows_that_they_took() -> None:
    whole = table((b"street", "?", "a"), (b"yard", "?", "b"), (b"street", "?", "c"))
    check_copies(whole.take([0]), whole.take([1]))
    with pytest.raises(RuleRefusalError):
        check_copies(whole.take([0]), whole.take([1, 2]))


def test_copies_count_once_in_one_group_and_are_refused_in_two() -> None:
    check_counted_once(table((b"street", "?", "a"), (b"street", "?", "a"), (b"yard", "?", "b")))
    with pytest.raises(RuleRefusalError) as raised:
        check_counted_once(table((b"street", "?", "a"), (b"street", "?", "b")))
    assert raised.value.reason == "copies_counted"


def test_what_others_hold_is_left_out_and_what_only_looks_like_it_stays() -> None:
    pile = table((b"street", "?", "a"), (b"street", "!", "b"), (b"yard", "?", "c"), (b"dock", "?", "d"))
    left = without_copies(pile, table((b"street", "?", "x")), table((b"dock", "?", "y"), (b"quay", "?", "z")))
    assert [left.parts(row) for row in range(len(left))] == [pile.parts(1), pile.parts(2)]
    assert not len(without_copies(pile.take([0]), pile))
