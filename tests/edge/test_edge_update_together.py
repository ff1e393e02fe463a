"""Tasks of one order: in whatever order things happen, and wherever the power goes, all change or none does."""

import random
from collections import deque

import pytest
from msgspec.structs import replace

from outrider_edge.updates.events import (
    Assigned,
    Booted,
    Event,
    Fetched,
    Healthy,
    Loaded,
    Passed,
    Permitted,
    RolledBack,
    Tripped,
    Unfit,
)
from outrider_edge.updates.record import SETTLED, Record
from outrider_edge.updates.rules import step
from outrider_edge.updates.together import due, in_use

TASKS = ("a", "b", "c")


class Run:
    """Three tasks under one order: jobs end in any order, and the power may go between any two writes."""

    def __init__(self, luck: random.Random, *, fails: float, cuts: float) -> None:
        self.luck, self.fails, self.cuts = luck, fails, cuts
        self.records = {task: Record(running=f"old-{task}") for task in TASKS}
        self.loaded: set[str] = set()
        self.events: dict[str, deque[Event]] = {task: deque() for task in TASKS}
        for task in TASKS:
            others = tuple(other for other in TASKS if other != task)
            self.events[task].append(Assigned(release=f"new-{task}", size=1, order=1, together=others))
        self.jobs: dict[str, str] = {}

    def settled(self) -> bool:
        return all(r.state in SETTLED for r in self.records.values()) and not any(self.events.values())

    def go(self) -> None:
        for _ in range(5000):
            if self.settled() and all(record.ended == 1 for record in self.records.values()):
                return
            if self.luck.random() < self.cuts:
                self.cut()
            self.once()
        raise AssertionError(f"it never ends: {self.records}")

    def once(self) -> None:
        ready = [task for task in TASKS if self.events[task]]
        if ready and self.luck.random() < 0.7:
            task = self.luck.choice(ready)
            self.happen(task, self.events[task].popleft())
        elif self.jobs:
            task = self.luck.choice(sorted(self.jobs))
            self.events[task].append(self.ended(self.jobs.pop(task)))

    def ended(self, job: str) -> Event:
        bad = self.luck.random() < self.fails
        match job:
            case "ask":
                return Permitted()
            case "fetch":
                return Unfit("x") if bad else Fetched("2")
            case "test":
                return Unfit("x") if bad else Passed()
            case "load":
                return Unfit("x") if bad else Loaded()
            case "watch":
                return Tripped("x") if bad else Healthy()
            case _:
                return RolledBack()

    def happen(self, task: str, event: Event) -> None:
        record, effects = step(self.records[task], event)
        if isinstance(event, Loaded) and record.state == "armed":
            self.loaded.add(task)
        self.records[task] = record  # written here; what follows is lost when the power goes
        if record.state != "armed":
            self.loaded.discard(task)
        for effect in effects:
            if effect == "cancel":
                self.jobs.pop(task, None)
            elif effect in ("ask", "fetch", "test", "load", "watch", "restore"):
                self.jobs[task] = effect
        for name, then in due(self.records, self.loaded).items():
            self.events[name].append(then)

    def cut(self) -> None:
        """The power goes: only the records are left, and the order that the broker keeps."""
        self.loaded.clear()
        self.jobs.clear()
        waiting = {task: [e for e in self.events[task] if isinstance(e, Assigned)] for task in TASKS}
        while events := due(self.records, {task for task in TASKS if in_use(task, self.records)}):
            for task, event in events.items():
                self.records[task], _ = step(self.records[task], event)
        self.events = {task: deque(waiting[task]) for task in TASKS}
        in_use_now = {record.running.startswith("new") for record in self.records.values()}
        if any(record.state == "probation" for record in self.records.values()):
            assert in_use_now == {True}, "an input would be answered by half of an order"
        for task in TASKS:
            self.happen(task, Booted(self.records[task].slot))


@pytest.mark.parametrize(("fails", "cuts"), [(0.0, 0.0), (0.0, 0.1), (0.15, 0.0), (0.15, 0.1), (0.5, 0.05)])
def test_all_of_an_order_run_or_none(fails: float, cuts: float) -> None:
    luck, ends = random.Random(11), set()
    for _ in range(150):
        run = Run(luck, fails=fails, cuts=cuts)
        run.go()
        running = {record.running.split("-")[0] for record in run.records.values()}
        assert len(running) == 1, run.records
        outcomes = {record.outcome for record in run.records.values()}
        assert outcomes == {"committed"} if running == {"new"} else "committed" not in outcomes
        refused = [record for record in run.records.values() if record.refused]
        assert running == {"new"} or refused, "none changed, and nobody says why"
        ends.add(next(iter(running)))
    assert ends == ({"new"} if not fails and not cuts else ends)


def test_the_negative_control_without_the_rule_they_come_apart() -> None:
    luck, apart = random.Random(11), 0
    for _ in range(60):
        run = Run(luck, fails=0.3, cuts=0.0)
        for task in TASKS:
            run.events[task][0] = replace_together(run.events[task][0])
        run.go()
        apart += len({record.running.split("-")[0] for record in run.records.values()}) > 1
    assert apart > 10


def test_a_task_that_is_given_another_order_leaves_the_set_and_the_others_end() -> None:
    records = {
        "a": Record(running="old", state="armed", offered="n", order=1, together=["b"]),
        "b": Record(running="old", state="fetching", offered="m", order=2),
    }
    event = due(records, {"a"})["a"]
    then, _ = step(records["a"], event)
    assert (then.state, then.outcome, then.refused) == ("idle", "replaced", [])


def test_a_task_that_is_not_here_lets_none_change() -> None:
    records = {"a": Record(running="old", state="offered", offered="n", order=1, together=["z"])}
    then, _ = step(records["a"], due(records, ())["a"])
    assert (then.state, then.outcome) == ("refused", "companion")


def test_a_task_alone_waits_for_nobody() -> None:
    armed = Record(running="old", state="armed", offered="n", order=1)
    assert due({"a": armed}, ()) == {}
    assert set(due({"a": armed}, {"a"})) == {"a"}
    assert due({"a": replace(armed, state="probation", healthy=False)}, {"a"}) == {}


def replace_together(event: Event) -> Event:
    assert isinstance(event, Assigned)
    return Assigned(release=event.release, size=1, order=1)
