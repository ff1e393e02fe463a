"""The cloud's rules, without a broker, a disk or a clock: who is asked next, and what two distributions become."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_cloud.answering.answers import check_replies, make_answer
from outrider_cloud.answering.batcher import DeadlineQueue, wait_for_more
from outrider_cloud.answering.strategies import STRATEGIES, Terms, fit_lambda
from outrider_cloud.large.base import LargeRefusal, LargeReply
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
