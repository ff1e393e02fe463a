"""The slot machine of one task: what each event does in each state, and what no sequence of events can do."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from outrider_edge.updates.rules import (
    MAX_BOOTS,
    MAX_REFUSED,
    MAX_TRIES,
    SETTLED,
    Assigned,
    Booted,
    Event,
    FellBack,
    Fetched,
    Healthy,
    Loaded,
    Passed,
    Record,
    RolledBack,
    Stopped,
    Tripped,
    Unfit,
    step,
)

OLD, NEW, NEWER = (letter * 64 for letter in "abc")
START = Record(running=OLD, version="1", factory=OLD)
WISH = Assigned(release=NEW, size=100, counter=1)
WHOLE_WAY: tuple[Event, ...] = (WISH, Fetched("2"), Passed(), Loaded())


def after(*events: Event, record: Record = START) -> tuple[Record, tuple[str, ...]]:
    effects: tuple[str, ...] = ()
    for event in events:
        record, effects = step(record, event)
    return record, effects


def test_an_update_goes_its_way_to_committed() -> None:
    seen = []
    record = START
    for event in (*WHOLE_WAY, Healthy()):
        record, effects = step(record, event)
        seen.append((record.state, effects))
    assert seen == [
        ("fetching", ("fetch",)),
        ("testing", ("test",)),
        ("armed", ("load",)),
        ("probation", ("point", "swap", "watch")),
        ("committed", ()),
    ]
    assert (record.slot, record.running, record.version, record.counter) == ("b", NEW, "2", 1)


def test_a_failure_in_probation_rolls_back_and_refuses_the_release() -> None:
    record, effects = after(*WHOLE_WAY, Tripped("NaN"))
    assert (record.state, record.slot, record.running, record.version) == ("rollback", "a", OLD, "1")
    assert effects == ("point", "restore")
    record, effects = after(RolledBack(), record=record)
    assert (record.state, record.offered, record.refused, record.reason) == ("refused", NEW, [NEW], "NaN")


@pytest.mark.parametrize("reached", [1, 2, 3])
def test_a_release_that_is_unfit_is_refused_wherever_it_shows(reached: int) -> None:
    record, effects = after(*WHOLE_WAY[:reached], Unfit("for another task"))
    assert (record.state, record.running, record.refused, effects) == ("refused", OLD, [NEW], ())


def test_a_refused_release_stays_refused_and_another_one_is_tried() -> None:
    refused, _ = after(WISH, Unfit("damaged"))
    again, effects = after(replace_counter(WISH, 7), record=refused)
    assert (again.state, again.refused, again.reason, effects) == ("refused", [NEW], "damaged", ())
    other, effects = after(Assigned(release=NEWER, size=5, counter=8), record=again)
    assert (other.state, other.offered, other.refused, effects) == ("fetching", NEWER, [NEW], ("fetch",))
    back, _ = after(Assigned(release=NEW, size=100, counter=9), record=replace(other, state="committed", offered=""))
    assert (back.state, back.offered, back.reason) == ("refused", NEW, "refused before")


def test_an_assignment_older_than_the_last_is_ignored() -> None:
    record, _ = after(replace_counter(WISH, 5))
    assert after(Assigned(release=NEWER, size=5, counter=4), record=record) == (record, ())


def test_the_running_release_assigned_again_changes_only_the_counter() -> None:
    record, effects = after(Assigned(release=OLD, size=100, counter=3))
    assert (record, effects) == (replace(START, counter=3), ())


def test_a_newer_assignment_takes_the_place_of_one_under_way() -> None:
    record, effects = after(WISH, Assigned(release=NEWER, size=5, counter=2))
    assert (record.state, record.offered, effects) == ("fetching", NEWER, ("cancel", "fetch"))


def test_a_newer_assignment_waits_for_the_end_of_a_probation() -> None:
    probation, _ = after(*WHOLE_WAY)
    assert after(Assigned(release=NEWER, size=5, counter=2), record=probation) == (probation, ())


@pytest.mark.parametrize(
    ("reached", "state", "effects"),
    [(0, "idle", ()), (1, "fetching", ("fetch",)), (2, "testing", ("test",)), (3, "armed", ("load",))],
)
def test_a_start_goes_on_where_the_last_process_stopped(reached: int, state: str, effects: tuple[str, ...]) -> None:
    record, found = after(*WHOLE_WAY[:reached], Booted("a"))
    assert (record.state, found) == (state, effects)


@pytest.mark.parametrize(("pointer", "effects"), [("a", ("point", "watch")), ("b", ("watch",))])
def test_a_start_within_a_probation_points_at_the_new_slot(pointer: str, effects: tuple[str, ...]) -> None:
    record, found = after(*WHOLE_WAY, Booted(pointer))  # type: ignore[arg-type]  # "a" or "b"
    assert (record.state, record.slot, record.boots, found) == ("probation", "b", 1, effects)


def test_a_crash_loop_in_a_probation_rolls_back() -> None:
    record, effects = after(*WHOLE_WAY, *itertools.repeat(Booted("b"), MAX_BOOTS))
    assert (record.state, record.slot, effects) == ("rollback", "a", ("point", "restore"))


@pytest.mark.parametrize(("reached", "state", "slot"), [(2, "testing", "a"), (4, "probation", "b")])
def test_orderly_restarts_are_no_crash_loop(reached: int, state: str, slot: str) -> None:
    record, _ = after(*WHOLE_WAY[:reached], *[Stopped(), Booted(slot)] * (MAX_BOOTS + 2))  # type: ignore[arg-type]  # "a" or "b"
    assert record.state == state


def test_a_self_test_that_takes_the_process_with_it_is_not_begun_for_ever() -> None:
    record, effects = after(WISH, Fetched("2"), *itertools.repeat(Booted("a"), MAX_TRIES))
    assert (record.state, record.refused, effects) == ("refused", [NEW], ())


def test_a_start_on_another_slot_than_the_pointers_corrects_the_pointer() -> None:
    assert after(Booted("b")) == (START, ("point",))


def test_the_list_of_refused_releases_is_bounded() -> None:
    record = START
    for number in range(MAX_REFUSED + 5):
        wish = Assigned(release=f"{number:064x}", size=1, counter=number)
        record, _ = after(wish, Unfit("damaged"), record=record)
    assert len(record.refused) == MAX_REFUSED
    assert record.refused[-1] == f"{MAX_REFUSED + 4:064x}"


EVENTS = st.one_of(
    st.builds(Assigned, release=st.sampled_from([OLD, NEW, NEWER]), size=st.just(9), counter=st.integers(0, 4)),
    st.sampled_from([Fetched("2"), Unfit("x"), Passed(), Loaded(), Healthy(), Tripped("x"), RolledBack(), Stopped()]),
    st.builds(Booted, st.sampled_from(["a", "b"])),
    st.builds(FellBack, slot=st.just("a"), running=st.just(OLD), version=st.just("1"), reason=st.just("damaged")),
)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_what_runs_was_tested_and_is_not_refused(events: list[Event]) -> None:
    record, loaded = START, {OLD}
    for event in events:
        before = record
        record, effects = step(record, event)
        if isinstance(event, Loaded) and before.state == "armed":
            loaded.add(record.running)
        assert record.running in loaded
        assert record.running not in record.refused or isinstance(event, FellBack)
        assert "swap" not in effects or record.state == "probation"
        assert record.state in SETTLED or record.offered
        assert record.counter >= before.counter


def replace_counter(wish: Assigned, counter: int) -> Assigned:
    return Assigned(release=wish.release, size=wish.size, counter=counter)
