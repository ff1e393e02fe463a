"""What an order whose signature holds may ask of a device: every rule, with the order that breaks it."""

from typing import Any

import pytest
from msgspec.structs import replace
from trust_world import NOW_S, a_plan, an_order

from outrider_edge.updates.judging import LocalFacts, TaskFacts, judge
from outrider_edge.updates.ledger import Halt
from outrider_edge.updates.record import Record, Times
from outrider_edge.updates.waiting import Surroundings, WhenTerms, hold
from outrider_trust.facts import ReleaseFacts, Requires, SignedPlan, SignedRelease
from outrider_wire.errors import RuleRefusalError
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease, RolloutPlan, WeeklyWindow

NOW_MS = round(NOW_S * 1000)
RUNNING, NEW, OLD = "a" * 64, "b" * 64, "c" * 64
HERE = LocalFacts(
    device="cam-1",
    facts={"site": "berlin"},
    agent="0.4.2",
    arch="aarch64",
    profile="pi-5",
    memory_mb=2000,
    order=3,
    order_sha256="e" * 64,
    tasks={"t": TaskFacts(running=RUNNING, version="1.1", floor=5, floor_release=RUNNING), "u": TaskFacts(running=OLD)},
)


def planned(task: str = "t", release: str = NEW, counter: int = 6) -> PlannedRelease:
    return PlannedRelease(task=task, release=release, size=100, counter=counter)


def signed(plan: RolloutPlan, **requires: Any) -> SignedPlan:
    releases = [
        SignedRelease(
            digest=each.release,
            size=each.size,
            facts=ReleaseFacts(
                task=each.task, version=f"2.{each.counter}", counter=each.counter, requires=Requires(**requires)
            ),
            automatic=False,
        )
        for each in plan.releases
    ]
    return SignedPlan(plan=plan, releases=releases, automatic=False)


def asked(
    plan: RolloutPlan | None = None, local: LocalFacts = HERE, requires: dict[str, Any] | None = None, **order: Any
) -> Any:
    plan = plan or a_plan(planned())
    given: DeviceOrder = an_order(plan, **({"number": 4, "stage": 1} | order))
    return judge(
        given, sha256="f" * 64, signed=signed(plan, **(requires or {})), returning={}, local=local, now_ms=NOW_MS
    )


def test_an_order_within_its_plan_is_approved_with_its_times() -> None:
    plan = a_plan(planned(), soak_s=60, freeze=[WeeklyWindow(begin=1, end=2)])
    approved = asked(plan)
    wish = approved.wishes["t"]
    assert (wish.release, wish.release_counter, wish.order, wish.back) == (NEW, 6, 4, False)
    assert wish.times == Times(
        begin_ms=NOW_MS + 60_000, expires_ms=NOW_MS + 3_600_000, freeze=[WeeklyWindow(begin=1, end=2)]
    )


def test_tasks_of_one_order_know_each_other() -> None:
    wishes = asked(a_plan(planned(), planned("u", OLD[::-1].replace("c", "d"), 1))).wishes
    assert {task: wish.together for task, wish in wishes.items()} == {"t": ("u",), "u": ("t",)}


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"number": 2}, "order_older"),
        ({"number": 3}, "order_reused"),
        ({"rollout": "r9"}, "order_foreign_plan"),
        ({"plan": a_plan(planned(), expires_ms=NOW_MS)}, "plan_expired"),
        ({"plan": a_plan(planned(), groups=[Group(name="x", facts={"site": "rome"})])}, "not_in_group"),
        ({"stage": 0}, "not_in_group"),
        ({"releases": [planned(release=OLD)]}, "not_in_plan"),
        ({"releases": [planned(counter=7)]}, "not_in_plan"),
        ({"plan": a_plan(planned("z"))}, "task_not_here"),
        ({"releases": [planned(), planned()]}, "order_twice"),
        ({"plan": a_plan(planned(), planned("u")), "releases": [planned()]}, "order_partial"),
        ({"plan": a_plan(planned(counter=4))}, "counter_older"),
        ({"plan": a_plan(planned(counter=5))}, "counter_reused"),
        ({"requires": {"agent": "0.5"}}, "agent_too_old"),
        ({"requires": {"arch": ["x86_64"]}}, "wrong_arch"),
        ({"requires": {"profiles": ["jetson"]}}, "wrong_profile"),
        ({"requires": {"memory_mb": 4000}}, "too_little_memory"),
        ({"kind": "rollback"}, "rollback_not_permitted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_a_rule_is_refused_with_its_reason(about: dict[str, Any], reason: str) -> None:
    with pytest.raises(RuleRefusalError) as raised:
        asked(**about)
    assert raised.value.reason == reason


def test_what_was_refused_here_stays_refused() -> None:
    local = replace(HERE, tasks={"t": TaskFacts(running=RUNNING, refused=[NEW])})
    with pytest.raises(RuleRefusalError, match="refused here before"):
        asked(local=local)


OFFERED = Record(running=RUNNING, state="offered", offered=NEW, order=4, rollout="r1")
TIMES = Times(begin_ms=1000, expires_ms=10_000)


@pytest.mark.parametrize(
    ("record", "around", "code"),
    [
        (OFFERED, {}, ""),
        (OFFERED, {"damaged": True}, "ledger_damaged"),
        (OFFERED, {"pinned": True}, "pinned"),
        (OFFERED, {"halt": Halt(standing=True)}, "stopped"),
        (OFFERED, {"halt": Halt(standing=True, rollouts=["r1"])}, "stopped"),
        (OFFERED, {"halt": Halt(standing=True, rollouts=["r2"])}, ""),
        (OFFERED, {"metered": True}, "metered_link"),
        (replace(OFFERED, state="fetching"), {"metered": True}, "metered_link"),
        (replace(OFFERED, state="staged"), {"metered": True}, ""),
        (replace(OFFERED, times=TIMES), {"now_ms": 999}, "too_early"),
        (replace(OFFERED, times=TIMES), {"now_ms": 10_000}, "order_expired"),
        (replace(OFFERED, times=TIMES, state="staged"), {"now_ms": 10_000}, ""),
        (replace(OFFERED, times=TIMES, state="armed"), {"now_ms": 999, "pinned": True}, "pinned"),
        (replace(OFFERED, times=TIMES, state="armed"), {"now_ms": 999}, ""),
    ],
)
def test_what_may_not_begin_now_says_why(record: Record, around: dict[str, Any], code: str) -> None:
    found = hold(record, Surroundings(**({"now_ms": 2000} | around)), WhenTerms())
    assert (found.code if found else "") == code
    assert found is None or found.what


def test_a_device_that_the_plan_itself_does_not_fit_takes_nothing_of_it() -> None:
    with pytest.raises(RuleRefusalError) as refused:
        asked(a_plan(planned(), requires=Requires(memory_mb=4000)))
    assert refused.value.reason == "too_little_memory"


def test_cloud_and_device_choose_a_group_by_the_same_facts() -> None:
    assert asked(
        a_plan(planned(), groups=[Group(name="boards", facts={"arch": "aarch64", "memory_mb": "2000"})]), stage=0
    )
    with pytest.raises(RuleRefusalError) as refused:
        asked(a_plan(planned(), groups=[Group(name="boards", facts={"arch": "x86_64"})]))
    assert refused.value.reason == "not_in_group"


def back(counter: int) -> Any:
    """A rollback by a plan of counter 6, on a device that runs a release of ``counter``."""
    older = planned(release=OLD, counter=4)
    plan = a_plan(planned(), rollback_to=[older])
    local = replace(HERE, tasks={"t": TaskFacts(running=NEW, version="2.0", floor=counter, counter=counter)})
    facts = ReleaseFacts(task="t", version="1.4", counter=4)
    found = SignedRelease(digest=OLD, size=100, facts=facts, automatic=False)
    order = an_order(plan, number=4, stage=1, kind="rollback", releases=[older])
    return judge(order, sha256="f" * 64, signed=signed(plan), returning={"t": found}, local=local, now_ms=NOW_MS)


def test_a_plan_takes_a_device_back_from_its_own_release_and_not_from_a_newer_one() -> None:
    assert back(6).wishes["t"].back
    with pytest.raises(RuleRefusalError) as refused:
        back(7)
    assert refused.value.reason == "rollback_overtaken"
