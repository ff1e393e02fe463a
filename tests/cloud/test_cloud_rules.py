"""The cloud's rules, without a broker, a disk or a clock: who is asked next, and what two distributions become."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_cloud.answering.answers import check_replies, make_answer, mass_problem, spread
from outrider_cloud.answering.batcher import DeadlineQueue, wait_for_more
from outrider_cloud.answering.grades import Grade, temperature_of, tempered
from outrider_cloud.answering.strategies import STRATEGIES, Terms, conformal_set, fit_conformal, fit_lambda
from outrider_cloud.large.base import LargeRefusal, LargeReply
from outrider_wire.messages import Part
from outrider_wire.task import AnswerSpace, InputPart, Task

TASK = Task(
    name="t", inputs=[InputPart(name="q", modality="text")], answer=AnswerSpace(labels=["red", "green", "blue"])
)


@dataclass
class Waiting:
    name: str
    answer_by: float
    keep_until: float = 1000.0


def queue(*waiting: Waiting, now: float = 0.0) -> DeadlineQueue[Waiting]:
    made: DeadlineQueue[Waiting] = DeadlineQueue()
    for item in waiting:
        made.push(item, now)
    return made


def names(items: list[Waiting]) -> str:
    return "".join(item.name for item in items)


def test_the_earliest_deadline_goes_first_and_equals_in_the_order_they_came() -> None:
    made = queue(Waiting("c", 3), Waiting("a", 1), Waiting("b", 2), Waiting("d", 3))
    assert names(made.take(3, 0).items) == "abc"
    assert names(made.take(3, 0).items) == "d"


def test_what_is_too_late_for_its_application_gives_way_but_is_not_dropped() -> None:
    made = queue(Waiting("late", 1), Waiting("z", 9), Waiting("audit", 0, 50))
    batch = made.take(9, 5)
    assert [item.name for item in batch.items] == ["z", "audit", "late"]
    assert not batch.expired


def test_what_nobody_wants_any_more_expires_and_takes_no_place_in_the_batch() -> None:
    batch = queue(Waiting("x", 1, 2), Waiting("y", 4, 5)).take(1, 3)
    assert (names(batch.items), names(batch.expired)) == ("y", "x")


@given(st.lists(st.tuples(st.floats(-5, 50), st.floats(0, 100)), max_size=40), st.floats(0, 60), st.integers(1, 8))
def test_everything_that_was_pushed_comes_out_exactly_once(
    times: list[tuple[float, float]], now: float, most: int
) -> None:
    waiting = [Waiting(str(k), by, max(by, keep)) for k, (by, keep) in enumerate(times)]
    made, out = queue(*waiting), []
    while len(made):
        batch = made.take(most, now)
        assert len(batch.items) <= most
        assert all(item.keep_until > now for item in batch.items)
        out += [item.name for item in batch.items + batch.expired]
    assert sorted(out) == sorted(item.name for item in waiting)


def test_a_lone_request_is_never_held_up() -> None:
    assert wait_for_more(queued=1, most=32, left_s=0.5, last_size=1) == 0
    assert wait_for_more(queued=1, most=32, left_s=0.5, last_size=2) == 0.5
    assert wait_for_more(queued=32, most=32, left_s=0.5, last_size=9) == 0
    assert wait_for_more(queued=2, most=32, left_s=-0.1, last_size=9) == 0


def test_shunt_is_the_large_model_alone() -> None:
    assert STRATEGIES["shunt"].combine([0.2, 0.8], [0.9, 0.1], Terms(strength=0.5)) == [0.2, 0.8]


def test_soft_prune_is_the_normalised_product() -> None:
    fused = STRATEGIES["soft-prune"].combine([0.5, 0.4, 0.1], [0.1, 0.8, 0.1], Terms(strength=0.5))
    product = np.array([0.5, 0.4, 0.1]) * np.sqrt([0.1, 0.8, 0.1])
    assert fused == pytest.approx(list(product / product.sum()))
    assert STRATEGIES["soft-prune"].combine([0.5, 0.4, 0.1], [0.1, 0.8, 0.1], Terms(strength=0.0)) == pytest.approx(
        [0.5, 0.4, 0.1]
    )


def test_soft_prune_never_rules_a_label_out() -> None:
    fused = STRATEGIES["soft-prune"].combine([0.999, 0.001], [0.0, 1.0], Terms(strength=0.2))
    assert fused[0] > 0.9


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.floats(0, 1.5),
)
def test_soft_prune_always_gives_a_distribution(large: list[float], small: list[float], strength: float) -> None:
    fused = STRATEGIES["soft-prune"].combine(large, small, Terms(strength=strength))
    assert sum(fused) == pytest.approx(1.0) and all(0 <= p <= 1 for p in fused)


def noisy(generator: np.random.Generator, labels: np.ndarray, skill: float) -> np.ndarray:
    """Distributions of a calibrated model that sees each label through noise."""
    logits = generator.normal(size=(len(labels), 5))
    logits[np.arange(len(labels)), labels] += skill
    logits *= skill
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_lambda_is_large_where_the_small_model_knows_something_and_zero_where_it_guesses() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 2000)
    large = noisy(generator, labels, 1.5)
    knows, guesses = noisy(generator, labels, 1.5), noisy(generator, generator.permutation(labels), 1.5)
    assert 0.7 <= fit_lambda(large, knows, labels) <= 1.3
    assert fit_lambda(large, guesses, labels) == 0.0


def test_an_answer_is_the_likeliest_label_with_its_probability() -> None:
    answer = make_answer(
        input_id="0" * 16,
        task=TASK,
        large=[0.2, 0.7, 0.1],
        small=[1, 0, 0],
        strategy="shunt",
        terms=Terms(),
        model="m",
        ms={"queue": 1.23456},
    )
    assert (answer.label, answer.confidence, answer.ms) == ("green", 0.7, {"queue": 1.235})


@pytest.mark.parametrize(
    "replies",
    [
        [],
        [LargeReply(probabilities=[1.0])],
        [LargeReply(probabilities=[float("nan"), 0.5, 0.5])],
        [LargeReply(probabilities=[-0.5, 1.0, 0.5])],
        [LargeReply(probabilities=[0.5, 0.2, 0.2])],
    ],
)
def test_a_backend_that_breaks_its_protocol_is_caught(replies: list[LargeReply | LargeRefusal]) -> None:
    with pytest.raises(ValueError, match=r"replies|distribution"):
        check_replies(replies, 1, 3)


def test_a_refusal_is_a_reply_too() -> None:
    check_replies([LargeRefusal(reason="r", detail="d"), LargeReply(probabilities=[0, 1, 0])], 2, 3)


# --- hard pruning


def test_candidates_are_the_labels_that_the_small_model_gives_enough() -> None:
    terms = Terms(keep=0.2)
    assert conformal_set([0.5, 0.3, 0.2], terms) is None, "all of them need no list"
    assert conformal_set([0.6, 0.3, 0.1], terms) == [0, 1]
    assert conformal_set([0.4, 0.4, 0.2], Terms(keep=0.5)) is None, "an empty set prunes nothing"


def test_hard_prune_restricts_the_large_model_to_the_candidates() -> None:
    hard = STRATEGIES["hard-prune"].combine
    assert hard([0.3, 0.3, 0.4], [0.6, 0.3, 0.1], Terms(keep=0.2)) == pytest.approx([0.5, 0.5, 0.0])


def test_hard_prune_falls_back_where_the_small_model_has_pruned_what_the_large_one_sees() -> None:
    hard, large = STRATEGIES["hard-prune"].combine, [0.2, 0.1, 0.7]
    assert hard(large, [0.6, 0.3, 0.1], Terms(keep=0.2)) == large
    assert hard(large, [0.34, 0.33, 0.33], Terms(keep=0.9)) == large


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_conformal_set_holds_the_true_label_as_often_as_promised_and_is_not_all_labels(alpha: float) -> None:
    """Mean over draws of the coverage on fresh rows is at least 1 − α, and less than 1/(n+1) above it."""
    generator = np.random.default_rng(1)
    held, sizes = [], []
    for _ in range(200):
        labels = generator.integers(0, 5, 340)
        said = noisy(generator, labels, 1.2)
        keep = fit_conformal(said[:40], labels[:40], alpha)
        inside = said[40:] >= keep
        held.append(inside[np.arange(300), labels[40:]].mean())
        sizes.append(inside.sum(axis=1).mean())
    assert 1 - alpha - 0.01 <= np.mean(held) <= 1 - alpha + 1 / 41 + 0.01
    assert np.mean(sizes) < 4.8


def test_a_quantile_without_the_correction_breaks_the_promise() -> None:
    """The negative control: the plain α-quantile of 20 rows covers less than 1 − α."""
    generator = np.random.default_rng(2)
    plain, fitted = [], []
    for _ in range(500):
        labels = generator.integers(0, 5, 220)
        said = noisy(generator, labels, 1.2)
        of_label = said[np.arange(220), labels]
        plain.append((of_label[20:] >= np.sort(of_label[:20])[2]).mean())
        fitted.append((of_label[20:] >= fit_conformal(said[:20], labels[:20], 0.1)).mean())
    assert np.mean(plain) < 0.88
    assert np.mean(fitted) >= 0.895


def test_fitted_on_the_whole_stream_it_does_not_hold_for_what_is_escalated() -> None:
    """Coverage is a promise about rows like those it was fitted on: what a device escalates is harder than its stream."""
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 5, 8000)
    hard = generator.random(8000) < 0.3
    said = np.where(hard[:, None], noisy(generator, labels, 0.8), noisy(generator, labels, 4.0))
    first, fresh = np.arange(8000) < 4000, np.arange(8000) >= 4000
    everything, escalated = (fit_conformal(said[rows], labels[rows], 0.1) for rows in (first, first & hard))
    of_label = said[np.arange(8000), labels][fresh & hard]
    assert (of_label >= everything).mean() < 0.7
    assert (of_label >= escalated).mean() >= 0.86


def test_too_few_rows_leave_no_label_out() -> None:
    said = np.array([[0.9, 0.1]] * 8)
    assert fit_conformal(said, np.zeros(8, np.int64), 0.1) == 0.0
    assert fit_conformal(said, np.zeros(8, np.int64), 0.2) == 0.9


# --- how a strategy asks


def test_each_strategy_tells_and_asks_what_it_should() -> None:
    product, prompt = Terms(keep=0.3), Terms(keep=0.3, prune_in="prompt")
    small = [0.6, 0.3, 0.1]
    asks = {
        name: (row.candidates(small, product), row.tells_small(product), row.tells_facts, row.computes(product))
        for name, row in STRATEGIES.items()
    }
    assert asks == {
        "shunt": (None, False, False, False),
        "soft-prune": (None, False, False, True),
        "hard-prune": ([0, 1], False, False, True),
        "transfer": (None, False, True, False),
    }
    soft = STRATEGIES["soft-prune"]
    assert (soft.tells_small(prompt), soft.computes(prompt)) == (True, False)
    assert soft.combine([0.5, 0.4, 0.1], small, prompt) == [0.5, 0.4, 0.1], "told once is not counted twice"


def test_a_reply_with_too_little_mass_serves_an_arg_max_and_nothing_else() -> None:
    poor, rich = (LargeReply(probabilities=[0.5, 0.3, 0.2], captured=captured) for captured in (0.9, 0.96))
    problems = {name: bool(mass_problem(poor, row, Terms())) for name, row in STRATEGIES.items()}
    assert problems == {"shunt": False, "soft-prune": True, "hard-prune": True, "transfer": False}
    assert not any(mass_problem(rich, row, Terms()) for row in STRATEGIES.values())
    assert not mass_problem(poor, STRATEGIES["soft-prune"], Terms(prune_in="prompt"))


def test_mass_that_was_not_seen_lowers_the_confidence_and_keeps_the_arg_max() -> None:
    assert spread([0.8, 0.2], 0.05) == pytest.approx([0.515, 0.485])
    assert spread([0.8, 0.2], 0.99) == [0.8, 0.2]


# --- payload grades


def part(name: str = "image", size: int = 1000, media_type: str = "image/jpeg") -> Part:
    return Part(name=name, modality="image", media_type=media_type, size=size, sha256="a1" * 32)


def test_the_first_grade_that_a_part_fits_gives_the_temperature() -> None:
    grades = [
        Grade(temperature=3.0, part="image", max_bytes=700),
        Grade(temperature=2.0, media_type="image/jpeg", max_bytes=1100),
        Grade(temperature=1.2, media_type="image/png"),
    ]
    question = part("question", 20, "text/plain")
    sizes = {
        (700, "image/jpeg"): 3.0,
        (701, "image/jpeg"): 2.0,
        (5000, "image/jpeg"): 1.0,
        (5000, "image/png"): 1.2,
    }
    for (size, kind), temperature in sizes.items():
        assert temperature_of([question, part(size=size, media_type=kind)], grades) == temperature
    assert temperature_of([question], [Grade(temperature=1.5)]) == 1.5
    assert temperature_of([question], []) == 1.0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda ps: sum(ps) > 0.01), st.floats(0.1, 10))
def test_a_temperature_keeps_the_order_and_rules_nothing_in(raw: list[float], temperature: float) -> None:
    given_ = [p / sum(raw) for p in raw]
    made = tempered(given_, temperature)
    assert sum(made) == pytest.approx(1.0)
    assert all(b == 0 for a, b in zip(given_, made, strict=True) if a == 0)
    assert made[given_.index(max(given_))] == pytest.approx(max(made))
    if temperature > 1:
        assert max(made) <= max(given_) + 1e-9
