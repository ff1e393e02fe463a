"""A budget: it holds in every window, and it goes to the refused inputs that gain most. Rules alone, no agent."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from factory import make_task
from outrider_edge.budget.budget import UNSUPPORTED_GAIN, TaskBudget, gain_of
from outrider_edge.budget.ledger import DAY_S, HOUR_S, SLOTS, Spend, Window
from outrider_edge.journey.gate import decide
from outrider_edge.ports import OutboxPart
from outrider_edge.uplink.escalations import wire_size
from outrider_wire.acceptance import Verdict
from outrider_wire.codec import encode
from outrider_wire.errors import OperatorConfigError, OperatorSetupError
from outrider_wire.messages import Escalation, Part
from outrider_wire.settings import parse_toml
from outrider_wire.task import Budget

BOOT = "boot-1"
START = 5_000.0


def budget_of(terms: Budget, **saved: object) -> TaskBudget:
    """At `START` of the first boot."""
    return TaskBudget(terms, now=START, boot_id=BOOT, **saved)  # type: ignore[arg-type]  # saved=…


class Day(NamedTuple):
    """A day's refused inputs: when, what their escalation is thought to gain, and whether the device is wrong."""

    at_s: NDArray[np.float64]
    gain: NDArray[np.float64]
    wrong: NDArray[np.bool_]

    def accuracy(self, sent: NDArray[np.bool_]) -> float:
        """With a large model that is always right."""
        return float((sent | ~self.wrong).mean())


def day_with_a_burst(seed: int, *, telling: bool = True) -> Day:
    """2,500 inputs over the day and 1,500 more within one hour of the night; not ``telling``: scores at random."""
    rng = np.random.default_rng(seed)
    at_s = np.sort(np.concatenate([rng.uniform(0, DAY_S, 2_500), rng.uniform(3 * HOUR_S, 4 * HOUR_S, 1_500)]))
    risk = rng.beta(1.2, 2.5, len(at_s))
    return Day(at_s, risk if telling else rng.permutation(risk), rng.random(len(at_s)) < risk)


def paced(day: Day, terms: Budget, size: int = 2_000) -> NDArray[np.bool_]:
    budget = budget_of(terms)
    asked = zip(day.at_s.tolist(), day.gain.tolist(), strict=True)
    return np.asarray([not budget.ask(START + at_s, gain=gain, size=size) for at_s, gain in asked])


def first_come(day: Day, most: int) -> NDArray[np.bool_]:
    return np.arange(len(day.at_s)) < most


def most_in(times: Sequence[float], costs: Sequence[float], window_s: float) -> float:
    """The dearest window of that length, wherever it begins."""
    most, first, held = 0.0, 0, 0.0
    for at, cost in zip(times, costs, strict=True):
        held += cost
        while times[first] <= at - window_s:
            held -= costs[first]
            first += 1
        most = max(most, held)
    return most


@pytest.mark.parametrize("seed", range(5))
def test_on_a_day_with_a_burst_the_budget_holds_and_beats_first_come_first_served(seed: int) -> None:
    day, most = day_with_a_burst(seed), 400
    sent = paced(day, Budget(escalations_per_day=most))
    assert sent.sum() <= most
    assert sent.sum() >= 0.9 * most
    served = first_come(day, most)
    assert day.accuracy(sent) > day.accuracy(served) + 0.02
    best = np.isin(np.arange(len(day.gain)), np.argsort(-day.gain)[:most])
    gained = day.accuracy(sent) - day.accuracy(served)
    assert gained > 0.6 * (day.accuracy(best) - day.accuracy(served))  # of what foresight would gain


def test_scores_at_random_gain_nothing() -> None:
    gains = []
    for seed in range(8):
        day = day_with_a_burst(seed, telling=False)
        sent = paced(day, Budget(escalations_per_day=400))
        gains.append(day.accuracy(sent) - day.accuracy(first_come(day, 400)))
    assert abs(float(np.mean(gains))) < 0.006  # 0.02 and more with scores that tell


def test_the_budget_lasts_the_day_where_first_come_spends_it_in_the_burst() -> None:
    day = day_with_a_burst(1)
    sent = paced(day, Budget(escalations_per_day=400))
    thirds = [sent[(day.at_s >= n * DAY_S / 3) & (day.at_s < (n + 1) * DAY_S / 3)].sum() for n in range(3)]
    assert min(thirds) > 60
    assert day.at_s[first_come(day, 400)].max() < 4 * HOUR_S


def test_equal_gains_are_spread_evenly() -> None:
    budget = budget_of(Budget(escalations_per_day=240))
    times = np.arange(0, DAY_S, 30.0)
    sent = np.asarray([not budget.ask(START + at, gain=UNSUPPORTED_GAIN, size=100) for at in times.tolist()])
    hours = [int(sent[(times >= n * HOUR_S) & (times < (n + 1) * HOUR_S)].sum()) for n in range(24)]
    assert sent.sum() >= 200
    assert max(hours[8:]) <= 3 * max(1, min(hours[8:]))


def test_of_two_inputs_of_equal_gain_a_budget_of_bytes_takes_the_cheaper() -> None:
    rng, budget = np.random.default_rng(0), budget_of(Budget(bytes_per_day=2_000_000))
    sent = {1_000: 0, 10_000: 0}
    for at in np.linspace(0, DAY_S, 2_000, endpoint=False).tolist():
        size = int(rng.choice([1_000, 10_000]))
        sent[size] += not budget.ask(START + at, gain=rng.uniform(0.1, 0.9), size=size)
    assert sent[1_000] > 5 * sent[10_000] > 0


def test_a_budget_of_one_a_day_is_not_paced_away() -> None:
    budget = budget_of(Budget(escalations_per_day=1))
    assert budget.ask(START, gain=0.5, size=10) == ""
    assert "1 of 1 escalations in the last day" in budget.ask(START + 1, gain=0.9, size=10)
    assert budget.ask(START + 1.2 * DAY_S, gain=0.5, size=10) == ""


def test_a_budget_of_nothing_sends_nothing() -> None:
    budget = budget_of(Budget(escalations_per_hour=0))
    assert "0 of 0 escalations" in budget.ask(START, gain=1.0, size=1)


def test_who_insists_is_not_paced_and_stops_at_the_limit() -> None:
    budget = budget_of(Budget(escalations_per_hour=20))
    answers = [budget.ask(START + n, gain=0.01, size=10, insist=True) for n in range(25)]
    assert answers[:20] == [""] * 20
    assert all("the budget is spent: 20 of 20" in answer for answer in answers[20:])


def test_money_counts_what_an_escalation_is_assumed_to_cost() -> None:
    terms = Budget(money_per_day=0.1, price_per_escalation=0.03)
    budget = budget_of(terms)
    assert [bool(budget.ask(START + n, gain=1.0, size=10, insist=True)) for n in range(4)] == [False] * 3 + [True]
    assert budget.view(START + 5)["money_per_day"].spent == pytest.approx(0.09)


def test_audits_are_counted_apart_and_bind_nothing() -> None:
    budget = budget_of(Budget(escalations_per_hour=2))
    for _ in range(5):
        budget.count_audit(START, size=100)
    view = budget.view(START)["escalations_per_hour"]
    assert (view.spent, view.left, view.audits) == (0, 2, 5)
    assert budget.ask(START, gain=1.0, size=10) == ""


def test_an_input_that_is_larger_than_a_whole_limit_can_never_be_afforded() -> None:
    budget = budget_of(Budget(bytes_per_hour=1_000, bytes_per_day=5_000))
    assert budget.could_afford(size=1_000) and not budget.could_afford(size=1_001)


def test_what_nobody_waits_for_gets_what_is_to_spare() -> None:
    budget, later = budget_of(Budget(escalations_per_day=400)), START + 12 * HOUR_S
    assert not budget.ask_spare(START, size=100)
    spared = sum(budget.ask_spare(later, size=100) for _ in range(400))
    assert spared == 50  # half of the bucket, which holds a quarter of the day's
    assert budget.ask(later, gain=0.9, size=100) == ""


@pytest.mark.parametrize("boot", [BOOT, "boot-2"])
@pytest.mark.parametrize("now", [START + 60, 3.0])
def test_neither_a_restart_nor_another_boot_nor_a_clock_that_jumps_renews_a_budget(boot: str, now: float) -> None:
    terms = Budget(escalations_per_day=10, bytes_per_hour=10_000)
    budget = budget_of(terms)
    for n in range(10):
        assert budget.ask(START + n, gain=1.0, size=100, insist=True) == ""
    saved = budget.save(START + 10)
    again = TaskBudget(terms, now=now, boot_id=boot, saved=saved)
    view = again.view(now)
    assert (view["escalations_per_day"].left, view["bytes_per_hour"].left) == (0, 9_000)
    assert "the budget is spent" in again.ask(now, gain=1.0, size=100, insist=True)


def test_a_restart_goes_on_just_where_it_was() -> None:
    day, terms = day_with_a_burst(3), Budget(escalations_per_day=300, bytes_per_hour=40_000)
    whole, parts = budget_of(terms), budget_of(terms)
    for number, (at, gain) in enumerate(zip(day.at_s[:1_500].tolist(), day.gain[:1_500].tolist(), strict=True)):
        if number % 100 == 0:
            parts = budget_of(terms, saved=parts.save(START + at))
        assert parts.ask(START + at, gain=gain, size=1_000) == whole.ask(START + at, gain=gain, size=1_000)


def test_a_saved_budget_that_cannot_be_read_is_no_fresh_one() -> None:
    with pytest.raises(OperatorSetupError, match="cannot be read"):
        budget_of(Budget(escalations_per_day=1), saved=b'{"boot_id": 7}')


def test_a_limit_that_is_new_in_the_file_knows_what_was_spent_before_it() -> None:
    before = budget_of(Budget(escalations_per_day=100))
    for _ in range(20):
        before.ask(START, gain=1.0, size=500, insist=True)
    after = budget_of(Budget(bytes_per_hour=10_500), saved=before.save(START))
    assert after.view(START)["bytes_per_hour"].left == 500


limits = st.integers(min_value=0, max_value=40)
steps = st.lists(
    st.tuples(
        st.floats(0, 3 * HOUR_S),
        st.floats(0, 1),
        st.integers(1, 5_000),
        st.sampled_from(["ask", "insist", "spare", "restart", "reboot"]),
    ),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(per_hour=limits, per_day=limits, bytes_per_hour=st.integers(0, 60_000), money=st.floats(0, 2.0), events=steps)
def test_no_order_of_events_exceeds_a_limit_in_any_window(
    per_hour: int, per_day: int, bytes_per_hour: int, money: float, events: list[tuple[float, float, int, str]]
) -> None:
    terms = Budget(
        escalations_per_hour=per_hour,
        escalations_per_day=per_day,
        bytes_per_hour=bytes_per_hour,
        money_per_day=money,
        price_per_escalation=0.07,
    )
    budget, now, ahead, boot = budget_of(terms), START, 0.0, 1
    times: list[float] = []
    sizes: list[float] = []
    for wait_s, gain, size, what in events:
        now += wait_s
        if what == "restart":
            budget = TaskBudget(terms, now=now + ahead, boot_id=f"boot-{boot}", saved=budget.save(now + ahead))
        elif what == "reboot":
            saved, ahead, boot = budget.save(now + ahead), 17.0 - now, boot + 1
            budget = TaskBudget(terms, now=now + ahead, boot_id=f"boot-{boot}", saved=saved)
        elif what == "spare":
            if budget.ask_spare(now + ahead, size=size):
                times, sizes = [*times, now], [*sizes, size]
        elif not budget.ask(now + ahead, gain=gain, size=size, insist=what == "insist"):
            times, sizes = [*times, now], [*sizes, size]
    ones = [1.0] * len(times)
    assert most_in(times, ones, HOUR_S) <= per_hour
    assert most_in(times, ones, DAY_S) <= per_day
    assert most_in(times, sizes, HOUR_S) <= bytes_per_hour
    assert most_in(times, [0.07] * len(times), DAY_S) <= money + 1e-6


@settings(max_examples=80, deadline=None)
@given(
    waits=st.lists(st.floats(0, 400.0), min_size=1, max_size=80),
    offset=st.floats(0, 1e6),
    ahead=st.floats(-1e6, 1e6),
)
def test_a_window_never_counts_less_than_was_spent_in_it_nor_more_than_one_slot_before(
    waits: list[float], offset: float, ahead: float
) -> None:
    window, now, times = Window(HOUR_S), offset, []
    for wait_s in waits:
        now += wait_s
        window.add(now, Spend(1, 7, 0))
        times.append(now)
        counted = window.spent(now).escalations
        assert counted >= sum(at > now - HOUR_S for at in times)
        assert counted <= sum(at > now - HOUR_S * (1 + 1 / SLOTS) - 1e-6 for at in times)
    assert window.moved(ahead).spent(now + ahead).escalations >= sum(at > now - HOUR_S for at in times)


def test_the_gain_is_the_chance_that_the_devices_own_answer_is_wrong() -> None:
    assert gain_of(confidence=0.7, supported=True) == pytest.approx(0.3)
    assert gain_of(confidence=0.99, supported=False) == UNSUPPORTED_GAIN
    assert gain_of(confidence=math.inf, supported=True) == 0.0


def test_a_budget_never_widens_what_is_accepted() -> None:
    refused = Verdict(accepted=False, why="low_confidence", score=0.5)
    accepted = Verdict(accepted=True, why="accepted", score=0.9)
    spent = decide(refused, certified=True, wants_cloud=False, audit=False, may_send=True, affordable=False)
    assert (spent.answer_here, spent.send, spent.certified, spent.uncertified) == (True, False, False, True)
    asked = decide(accepted, certified=True, wants_cloud=True, audit=False, may_send=True, affordable=False)
    assert (asked.answer_here, asked.send, asked.certified) == (True, False, True)
    audit = decide(accepted, certified=True, wants_cloud=False, audit=True, may_send=True, affordable=False)
    assert audit.audited


@pytest.mark.parametrize("labels", [3, 100])
@pytest.mark.parametrize("pixels", [200, 60_000])
def test_the_size_that_is_counted_is_about_what_goes_on_the_wire(labels: int, pixels: int) -> None:
    task = make_task(labels=[f"label-{n}" for n in range(labels)])
    sent = [
        OutboxPart(name="image", modality="image", media_type="image/png", data=bytes(pixels)),
        OutboxPart(
            name="question", modality="text", media_type="text/plain; charset=utf-8", data=b"what colour is it?"
        ),
    ]
    message = encode(
        Escalation(
            id="01990000-0000-7000-8000-000000000001",
            task=task.name,
            parts=[
                Part(
                    name=part.name,
                    modality=part.modality,
                    media_type=part.media_type,
                    size=len(part.data),
                    sha256="0" * 64,
                    inline=part.data,
                )
                for part in sent
            ],
            why="low_confidence",
            model="0" * 64,
            label=task.labels[0],
            probabilities=[1 / labels] * labels,
            answer_within_ms=2_000,
            keep_for_s=86_400,
            group="a-clip",
        )
    )
    counted = wire_size(((part.name, len(part.data)) for part in sent), names=len(task.name) + 6, labels=labels)
    assert len(message) <= counted <= len(message) + 600


def test_a_budget_of_money_without_a_price_is_refused_and_says_so() -> None:
    with pytest.raises(OperatorConfigError, match="price_per_escalation"):
        parse_toml("money_per_day = 3.0", Budget, "task.toml")


def test_what_is_saved_is_small() -> None:
    budget = budget_of(Budget(escalations_per_day=10_000, escalations_per_hour=10_000, bytes_per_day=10**9))
    for n in range(5_000):
        budget.ask(START + 17 * n, gain=(n % 100) / 100, size=1_000)
    assert len(budget.save(START + 17 * 5_000)) < 16_384
    assert msgspec.json.decode(budget.save(START + 17 * 5_000))["boot_id"] == BOOT
