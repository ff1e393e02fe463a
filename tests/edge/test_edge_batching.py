"""Which inputs are answered together: only where it was measured to help, and never at the cost of a deadline."""

import asyncio
import math
import random
import time
from pathlib import Path
from typing import Any

import pytest

from factory import make_bundle, make_task, parts_of, sure
from outrider_edge.journey.batching import LEAST_GAIN, rows_now
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_engine.model import Model, load_model
from outrider_wire.errors import BundleDamagedError, BundleMismatchError, CallerInputError

DENSE = {1: 0.006, 2: 0.006, 4: 0.010, 8: 0.011}
CONVOLUTIONAL = {1: 0.0011, 2: 0.0063, 4: 0.0124, 8: 0.0247}
NONE = math.inf


@pytest.mark.parametrize(
    ("deadlines", "cost_s", "rows"),
    [
        ([], DENSE, 0),
        ([NONE], DENSE, 1),
        ([NONE] * 3, DENSE, 2),
        ([NONE] * 8, DENSE, 8),
        ([NONE] * 20, DENSE, 8),
        ([NONE] * 8, CONVOLUTIONAL, 1),
        ([NONE] * 8, {}, 1),
        ([NONE] * 8, {8: 0.01}, 1),
        ([NONE] * 8, {1: 0.010, 8: 0.079}, 1),
        ([0.008, *[NONE] * 7], DENSE, 2),
        ([0.0105, *[NONE] * 7], DENSE, 4),
        ([NONE, NONE, NONE, 0.007, *[NONE] * 4], DENSE, 2),
        ([0.001, *[NONE] * 7], DENSE, 8),
    ],
    ids=[
        "nothing waits",
        "one waits",
        "three wait",
        "eight wait",
        "more wait than are measured",
        "batches are slower",
        "nothing is known",
        "one alone is not known",
        "a gain that is none",
        "the first has no time for four",
        "the first has time for four",
        "the fourth has no time for four",
        "the first is late whatever is done",
    ],
)
def test_the_rule(deadlines: list[float], cost_s: dict[int, float], rows: int) -> None:
    assert rows_now(deadlines, 0.0, cost_s) == rows


def test_no_batch_makes_an_input_late_that_could_have_been_in_time_nor_costs_more_a_row() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        cost_s = {size: rng.uniform(0.001, 0.02) for size in (1, 2, 4, 8) if size == 1 or rng.random() < 0.8}
        deadlines = [rng.choice((NONE, rng.uniform(0, 0.03))) for _ in range(rng.randint(1, 12))]
        rows = rows_now(deadlines, 0.0, cost_s)
        assert 1 <= rows <= len(deadlines)
        assert not any(cost_s[1] <= each < cost_s[rows] for each in deadlines[:rows])
        assert rows == 1 or cost_s[rows] <= LEAST_GAIN * rows * cost_s[1]


TASK = make_task()


class Heavy:
    """The model, each call of which takes as long as `DENSE` says; ``fails``: batches fail, as one with a fixed batch would."""

    def __init__(self, model: Model, *, fails: bool = False) -> None:
        self._model, self._fails = model, fails
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def dry_run(self, rows: int = 1) -> None:
        """As long as that many take."""
        time.sleep(DENSE[rows])

    def infer(self, batch: Any) -> Any:
        """As the model, slowly."""
        self.sizes.append(len(batch))
        time.sleep(DENSE.get(len(batch), 0.01))
        if self._fails and len(batch) > 1:
            raise BundleMismatchError("no batches", reason="model_failed")
        return self._model.infer(batch)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(make_bundle(tmp_path / "bundle", TASK), bounds=TASK.inputs)


def running(model: Any, max_batch: int) -> TaskRuntime:
    runtime = TaskRuntime(task=TASK, model=model, max_batch=max_batch)
    runtime.warm()
    return runtime


async def test_inputs_that_wait_are_answered_together_each_with_its_own_answer(model: Model) -> None:
    heavy = Heavy(model)
    runtime = running(heavy, 8)
    answers = await asyncio.gather(*(runtime.ask(parts_of(sure(n % 3))) for n in range(24)))
    assert [answer.label for answer in answers] == ["red", "green", "blue"] * 8
    assert max(heavy.sizes) == 8
    assert sum(heavy.sizes) == 24
    assert runtime.served == 24
    runtime.close()


async def test_whoever_judges_a_release_sees_the_answers_of_batches_too(model: Model) -> None:
    runtime, shown = running(Heavy(model), 8), list[str]()
    runtime.listen(lambda parts, answer: shown.append(answer.label))
    await asyncio.gather(*(runtime.ask(parts_of(sure(n % 3))) for n in range(24)))
    assert sorted(shown) == sorted(["red", "green", "blue"] * 8)
    assert runtime.p95_ms >= 1e3 * DENSE[1]
    runtime.close()


async def test_an_input_that_the_bundles_own_files_fail_on_costs_the_others_nothing(model: Model) -> None:
    class Unreadable(Heavy):
        def prepare(self, parts: Any) -> Any:
            """As where a tokenizer's file breaks on one text."""
            if parts["question"] == "breaks":
                raise BundleDamagedError("it does not work", reason="tokenizer_unusable")
            return self._model.prepare(parts)

    runtime = running(Unreadable(model), 8)
    first = runtime.ask(parts_of(sure(0)))  # the thread is busy while the others come
    asked = [runtime.ask(parts_of(sure(n % 3))) for n in range(4)]
    bad = runtime.ask({**parts_of(sure(0)), "question": "breaks"})
    found = await asyncio.gather(first, bad, *asked, return_exceptions=True)
    assert isinstance(found[1], BundleDamagedError)
    assert [getattr(each, "label", each) for each in found[2:]] == ["red", "green", "blue", "red"]
    runtime.close()


async def test_without_the_setting_each_is_answered_alone(model: Model) -> None:
    heavy = Heavy(model)
    runtime = running(heavy, 1)
    await asyncio.gather(*(runtime.ask(parts_of(sure(n % 3))) for n in range(6)))
    assert heavy.sizes == [1] * 6
    runtime.close()


async def test_a_bad_input_or_a_batch_that_fails_costs_the_others_nothing(model: Model) -> None:
    heavy = Heavy(model, fails=True)
    runtime = running(heavy, 8)
    asked = [runtime.ask(parts_of(sure(n % 3))) for n in range(8)]
    found = await asyncio.gather(runtime.ask({"image": b"no picture", "question": "?"}), *asked, return_exceptions=True)
    assert isinstance(found[0], CallerInputError)
    assert [getattr(each, "label", each) for each in found[1:]] == (["red", "green", "blue"] * 3)[:8]
    assert (runtime.failed, runtime.served) == (0, 8)
    runtime.close()


async def test_a_caller_who_goes_away_takes_no_answer_from_the_others(model: Model) -> None:
    runtime = running(Heavy(model), 8)
    gone = asyncio.ensure_future(runtime.ask(parts_of(sure(0))))
    asked = [asyncio.ensure_future(runtime.ask(parts_of(sure(2)))) for _ in range(5)]
    await asyncio.sleep(0)
    gone.cancel()
    assert [answer.label for answer in await asyncio.gather(*asked)] == ["blue"] * 5
    runtime.close()
