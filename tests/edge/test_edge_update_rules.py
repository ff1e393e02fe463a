"""The slot machine of one task: what each event does in each state, and what no sequence of events can do."""

import dataclasses
import itertools
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from outrider_edge.updates.diagram import diagram, table
from outrider_edge.updates.events import (
    Agreed,
    Assigned,
    Booted,
    Event,
    FellBack,
    Fetched,
    Healthy,
    Kept,
    Loaded,
    Passed,
    Permitted,
    Returned,
    RolledBack,
    Stopped,
    Ticked,
    Tripped,
    Unfit,
    Withdrawn,
)
from outrider_edge.updates.rules import MAX_BOOTS, MAX_REFUSED, PHASES, SETTLED, Record, step
from outrider_wire.messages import SlotState

OLD, NEW, NEWER = (letter * 64 for letter in "abc")
START = Record(running=OLD, version="1", factory=OLD)
WISH = Assigned(release=NEW, size=100, counter=1)
WHOLE_WAY: tuple[Event, ...] = (WISH, Permitted(), Fetched("2"), Permitted(), Passed(), Loaded(), Agreed())
TO: dict[str, tuple[Event, ...]] = {
    "idle": (),
    "offered": WHOLE_WAY[:1],
    "fetching": WHOLE_WAY[:2],
    "staged": WHOLE_WAY[:3],
    "testing": WHOLE_WAY[:4],
    "armed": WHOLE_WAY[:6],
    "probation": WHOLE_WAY,
    "committed": (*WHOLE_WAY, Healthy(), Kept()),
    "rollback": (*WHOLE_WAY, Tripped("NaN")),
    "refused": (*WHOLE_WAY, Tripped("NaN"), RolledBack()),
}
"""By state, a way to it."""
EVERY: tuple[Event, ...] = (
    *WHOLE_WAY,
    Assigned(release=NEWER, size=5, counter=2),
    Assigned(release=OLD, size=5, order=3),
    Unfit("x"),
    Healthy(),
    Kept(),
    Tripped("x"),
    Withdrawn("x", "stopped", "stopped"),
    Withdrawn("x", "companion", "companion"),
    Returned("x"),
    RolledBack(),
    Stopped(),
    Ticked(1.0, 5),
    Ticked(1e9),
    FellBack(slot="a", running=OLD, version="1", reason="damaged"),
)


def after(*events: Event, record: Record = START) -> tuple[Record, tuple[str, ...]]:
    effects: tuple[str, ...] = ()
    for event in events:
        record, effects = step(record, event)
    return record, effects


def test_an_update_goes_its_way_to_committed() -> None:
    seen = []
    record = START
    for event in (*WHOLE_WAY, Healthy(), Kept()):
        record, effects = step(record, event)
        seen.append((record.state, effects))
    assert seen == [
        ("offered", ("ask",)),
        ("fetching", ("fetch",)),
        ("staged", ("ask",)),
        ("testing", ("test",)),
        ("armed", ("load",)),
        ("armed", ("meet",)),
        ("probation", ("point", "swap", "watch")),
        ("probation", ("meet",)),
        ("committed", ()),
    ]
    assert (record.slot, record.running, record.version, record.counter, record.previous) == ("b", NEW, "2", 1, OLD)


@pytest.mark.parametrize("state", PHASES)
def test_every_state_can_be_reached_and_is_in_the_table(state: SlotState) -> None:
    record, _ = after(*TO[state])
    assert record.state == state
    phase = PHASES[state]
    ways = {**{kind: way.to for kind, way in phase.ways.items()}, FellBack: ("idle", "refused"), Ticked: phase.late_to}
    ways[Booted] = phase.boot_to
    for event in (*EVERY, Booted("a"), Booted("b", "another")):
        then, _ = step(record, event)
        assert then.state in {state, *ways.get(type(event), ())}, event


@pytest.mark.parametrize("state", PHASES)
def test_no_state_under_way_lasts_for_ever(state: SlotState) -> None:
    phase = PHASES[state]
    if state in SETTLED:
        assert phase.deadline_s is None
        return
    assert phase.deadline_s and phase.late_what
    record, _ = after(*TO[state])
    late, effects = after(*itertools.repeat(Ticked(60.0), int(phase.deadline_s / 60)), record=record)
    assert late.state != state or late.healthy or effects == ("cancel", "point", "restore")
    assert late.reason or late.healthy or late.state == "rollback"


def test_a_device_that_keeps_losing_power_comes_to_its_deadlines_too() -> None:
    record, _ = after(*TO["fetching"], *itertools.repeat(Booted("a"), 3 * 24 * 60 - 1))
    assert record.state == "fetching"
    record, _ = after(Booted("a"), Ticked(0.0), record=record)
    assert (record.state, record.outcome, record.refused) == ("idle", "gave_up", [])


def test_what_a_state_does_not_keep_is_forgotten() -> None:
    fresh = Record(running=OLD)
    passing = {name for phase in PHASES.values() for name in phase.keeps}
    for state, phase in PHASES.items():
        record, _ = after(*TO[state])
        for name in passing - set(phase.keeps):
            assert getattr(record, name) == getattr(fresh, name), (state, name)


def test_a_failure_in_probation_rolls_back_and_refuses_the_release() -> None:
    record, effects = after(*WHOLE_WAY, Tripped("NaN"))
    assert (record.state, record.slot, record.running, record.version) == ("rollback", "a", OLD, "1")
    assert effects == ("cancel", "point", "restore")
    record, effects = after(RolledBack(), record=record)
    assert (record.state, record.offered, record.refused, record.reason) == ("refused", NEW, [NEW], "NaN")
    assert record.outcome == "rolled_back"


@pytest.mark.parametrize("state", ["offered", "fetching", "staged", "testing", "armed"])
def test_a_release_that_is_unfit_is_refused_wherever_it_shows(state: str) -> None:
    record, effects = after(*TO[state], Unfit("for another task"))
    assert (record.state, record.running, record.refused, effects) == ("refused", OLD, [NEW], ("cancel",))


def test_a_refused_release_stays_refused_and_another_one_is_tried() -> None:
    refused, _ = after(WISH, Unfit("damaged"))
    again, effects = after(replace_counter(WISH, 7), record=refused)
    assert (again.state, again.refused, again.reason, effects) == ("refused", [NEW], "damaged", ())
    other, effects = after(Assigned(release=NEWER, size=5, counter=8), record=again)
    assert (other.state, other.offered, other.refused, effects) == ("offered", NEWER, [NEW], ("ask",))
    back, _ = after(Assigned(release=NEW, size=100, counter=9), record=replace(other, state="committed", offered=""))
    assert (back.state, back.offered, back.reason) == ("refused", NEW, "refused before")


def test_an_assignment_older_than_the_last_is_ignored() -> None:
    record, _ = after(replace_counter(WISH, 5))
    assert after(Assigned(release=NEWER, size=5, counter=4), record=record) == (record, ())


def test_an_older_order_and_one_that_ended_here_are_ignored() -> None:
    order = replace_order(WISH, 5)
    record, _ = after(order, Unfit("x"))
    assert after(replace_order(Assigned(release=NEWER, size=5), 4), record=record) == (record, ())
    gave_up, _ = after(order, Withdrawn("too late", "gave_up", "too_late"))
    assert after(order, record=gave_up) == (gave_up, ())
    stopped, _ = after(order, Withdrawn("stop", "stopped", "stopped"))
    assert after(order, record=stopped)[0].state == "offered"


def test_nothing_older_than_what_has_run_comes_in_but_by_a_permitted_return() -> None:
    record = replace(START, floor=7)
    older = Assigned(release=NEW, size=5, order=1, release_counter=6)
    assert after(older, record=record) == (record, ())
    back = Assigned(release=NEW, size=5, order=1, release_counter=6, back=True)
    assert after(back, record=record)[0].state == "offered"


def test_the_running_release_assigned_again_changes_only_the_counter() -> None:
    record, effects = after(Assigned(release=OLD, size=100, counter=3))
    assert (record, effects) == (replace(START, counter=3), ())


def test_the_running_release_ordered_is_an_order_carried_out() -> None:
    record, effects = after(replace_order(Assigned(release=OLD, size=100), 3))
    assert (record.state, record.ended, record.outcome, effects) == ("idle", 3, "committed", ())


@pytest.mark.parametrize("state", ["offered", "fetching", "staged", "testing", "armed"])
def test_a_newer_assignment_takes_the_place_of_one_under_way(state: str) -> None:
    record, effects = after(*TO[state], Assigned(release=NEWER, size=5, counter=2))
    assert (record.state, record.offered, effects) == ("offered", NEWER, ("cancel", "ask"))
    assert (record.tries, record.offered_version) == (0, "")


@pytest.mark.parametrize("state", ["probation", "rollback"])
def test_a_newer_assignment_waits_for_the_end_of_a_probation(state: str) -> None:
    probation, _ = after(*TO[state])
    assert after(Assigned(release=NEWER, size=5, counter=2), record=probation) == (probation, ())


@pytest.mark.parametrize("state", ["offered", "fetching", "staged", "testing", "armed"])
def test_a_stop_ends_what_is_not_in_use_without_a_word_against_it(state: str) -> None:
    record, effects = after(*TO[state], Withdrawn("fire", "stopped", "stopped"))
    assert (record.state, record.offered, record.refused, effects) == ("idle", "", [], ("cancel",))
    assert (record.outcome, record.reason) == ("stopped", "fire")


def test_a_stop_in_probation_returns_to_the_release_before_and_refuses_nothing() -> None:
    record, effects = after(*WHOLE_WAY, Withdrawn("fire", "stopped", "stopped"))
    assert (record.state, record.running, effects) == ("rollback", OLD, ("cancel", "point", "restore"))
    record, _ = after(RolledBack(), record=record)
    assert (record.state, record.outcome, record.refused, record.reason) == ("idle", "stopped", [], "fire")


def test_a_person_returns_to_the_release_before_once() -> None:
    begun = replace(START, previous=NEWER, previous_version="0")
    record, effects = after(Returned("too slow"), record=begun)
    assert (record.state, record.slot, record.running, effects) == (
        "rollback",
        "b",
        NEWER,
        ("cancel", "point", "restore"),
    )
    record, _ = after(RolledBack(), record=record)
    assert (record.state, record.refused, record.reason) == ("refused", [OLD], "too slow")
    assert after(Returned("again"), record=record) == (record, ())


@pytest.mark.parametrize(
    ("state", "then", "effects"),
    [
        ("idle", "idle", ()),
        ("offered", "offered", ("ask",)),
        ("fetching", "fetching", ("fetch",)),
        ("staged", "staged", ("ask",)),
        ("testing", "staged", ("ask",)),
        ("armed", "armed", ("load",)),
        ("rollback", "rollback", ("point", "restore")),
        ("refused", "refused", ()),
    ],
)
def test_a_start_goes_on_where_the_last_process_stopped(state: str, then: str, effects: tuple[str, ...]) -> None:
    record, found = after(*TO[state], Booted("a"))
    assert (record.state, found) == (then, effects)


@pytest.mark.parametrize(("pointer", "effects"), [("a", ("point", "watch")), ("b", ("watch",))])
def test_a_start_within_a_probation_points_at_the_new_slot(pointer: str, effects: tuple[str, ...]) -> None:
    record, found = after(*WHOLE_WAY, Booted(pointer))  # type: ignore[arg-type]  # "a" or "b"
    assert (record.state, record.slot, record.boots, found) == ("probation", "b", 1, effects)


def test_a_crash_loop_in_a_probation_rolls_back() -> None:
    record, effects = after(*WHOLE_WAY, *itertools.repeat(Booted("b"), MAX_BOOTS))
    assert (record.state, record.slot, effects) == ("rollback", "a", ("cancel", "point", "restore"))


@pytest.mark.parametrize(("way", "slot"), [("testing", "a"), ("probation", "b")])
def test_orderly_restarts_are_no_crash_loop(way: str, slot: str) -> None:
    record, _ = after(*TO[way], *[Stopped(), Booted(slot)] * (MAX_BOOTS + 2))  # type: ignore[arg-type]  # "a" or "b"
    assert record.state == way


def test_a_start_on_another_slot_than_the_pointers_corrects_the_pointer() -> None:
    assert after(Booted("b")) == (START, ("point",))


def test_a_slot_to_return_to_that_is_damaged_still_leaves_what_failed_refused() -> None:
    record, _ = after(*TO["rollback"], FellBack(slot="a", running=NEWER, version="0", reason="damaged"))
    assert (record.state, record.running, record.refused) == ("refused", NEWER, [NEW])


def test_the_list_of_refused_releases_is_bounded() -> None:
    record = START
    for number in range(MAX_REFUSED + 5):
        wish = Assigned(release=f"{number:064x}", size=1, counter=number)
        record, _ = after(wish, Unfit("damaged"), record=record)
    assert len(record.refused) == MAX_REFUSED
    assert record.refused[-1] == f"{MAX_REFUSED + 4:064x}"


def test_the_diagram_has_every_state_and_every_way() -> None:
    drawn = diagram()
    assert drawn.startswith("stateDiagram-v2")
    for state, phase in PHASES.items():
        assert f"| `{state}` |" in table()
        for target in {target for way in phase.ways.values() for target in way.to} - {state}:
            assert f"{state} --> {target}:" in drawn


class Machine(RuleBasedStateMachine):
    """Any order of events: what runs was loaded and is not refused, counters rise, and nothing waits without a deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.record = START
        self.ran = {OLD}
        self.refused: set[str] = set()

    @rule(event=st.sampled_from([e for e in EVERY if not isinstance(e, FellBack | Assigned)]))
    def happens(self, event: Event) -> None:
        self.step(event)

    @rule(
        release=st.sampled_from([OLD, NEW, NEWER]),
        counter=st.integers(0, 4),
        order=st.integers(0, 4),
        release_counter=st.integers(0, 4),
        back=st.booleans(),
    )
    def is_wanted(self, **wish: Any) -> None:
        before = self.record
        self.step(Assigned(size=9, **wish))
        if self.record.state == "offered" and before.state != "offered":
            assert self.record.offered not in before.refused
            low = 0 < self.record.offered_counter < before.floor
            assert not low or self.record.back

    @rule(pointer=st.sampled_from(["a", "b"]), boot=st.sampled_from(["", "1", "2"]))
    def boots(self, pointer: Literal["a", "b"], boot: str) -> None:
        self.step(Booted(pointer, boot))

    @rule()
    def goes_on(self) -> None:
        """The way forward, so that long runs come to the far states."""
        ways: dict[str, Event] = {
            "offered": Permitted(),
            "fetching": Fetched("n"),
            "staged": Permitted(),
            "testing": Passed(),
            "armed": Agreed(),
            "probation": Kept() if self.record.healthy else Healthy(),
            "rollback": RolledBack(),
        }
        if event := ways.get(self.record.state):
            self.step(event)

    def step(self, event: Event) -> None:
        before = self.record
        record, effects = step(before, event)
        if isinstance(event, Agreed) and record.state == "probation" and before.state == "armed":
            self.ran.add(record.running)
        self.record = record
        self.refused |= set(record.refused)
        assert "swap" not in effects or record.state == "probation"
        assert record.counter >= before.counter and record.order >= before.order and record.floor >= before.floor
        assert set(before.refused) <= set(record.refused)
        assert not ({"fetch", "test"} & set(effects)) or record.state in ("fetching", "testing")

    @invariant()
    def what_runs_was_loaded_and_is_not_refused(self) -> None:
        assert self.record.running in self.ran
        assert self.record.running not in self.record.refused
        assert not self.record.previous or self.record.previous in self.ran

    @invariant()
    def what_waits_is_about_a_release_and_has_a_deadline(self) -> None:
        assert self.record.state in SETTLED or (self.record.offered and PHASES[self.record.state].deadline_s)

    @invariant()
    def the_slots_differ(self) -> None:
        assert self.record.running != self.record.previous


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def replace_counter(wish: Assigned, counter: int) -> Assigned:
    return dataclasses.replace(wish, counter=counter)


def replace_order(wish: Assigned, order: int) -> Assigned:
    return dataclasses.replace(wish, counter=0, order=order)
