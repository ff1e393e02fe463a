"""The account adds up exactly when every input is in one state."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.report import ATTRIBUTES, TERMINAL, Account, State, account_from

STATES = get_args(State)


@given(st.lists(st.sampled_from(STATES)))
def test_an_account_of_inputs_in_one_state_each_adds_up(states: list[str]) -> None:
    counts = {state: states.count(state) for state in STATES}
    assert account_from(counts | {"received": len(states)}).adds_up


@given(st.lists(st.sampled_from(STATES), min_size=1), st.data())
def test_an_input_lost_or_counted_twice_shows(states: list[str], data: st.DataObject) -> None:
    counts = {state: states.count(state) for state in STATES} | {"received": len(states)}
    counts[data.draw(st.sampled_from([*STATES, "received"]))] += 1
    assert not account_from(counts).adds_up


def test_attributes_never_enter_the_sum() -> None:
    assert account_from({"received": 1, "edge": 1} | dict.fromkeys(ATTRIBUTES, 7)).adds_up


def test_every_state_and_attribute_has_its_column() -> None:
    assert set(Account.__struct_fields__) == {"received", "pending", *TERMINAL, *ATTRIBUTES}


def test_pending_is_the_only_state_that_is_not_terminal() -> None:
    assert set(STATES) - set(TERMINAL) == {"pending"}


def test_unknown_counts_are_left_out() -> None:
    assert account_from({"received": 0, "mood": 3}) == Account()
