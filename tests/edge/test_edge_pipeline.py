"""The pipeline of one task: where it computes, what it counts, and a swap that nobody notices."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from factory import foreign, make_bundle, make_task, parts_of, sure, unsure
from outrider_edge.journey.pipeline import LOOP_BYTES, LOOP_MS, TaskRuntime
from outrider_engine.model import Model, load_model
from outrider_wire.errors import BundleMismatchError, CallerInputError
from outrider_wire.manifest import SystemClaim

TASK = make_task()


class Brittle:
    """A model that fails on every input, as one with a damaged weight would."""

    def __init__(self, *, like: Model) -> None:
        self.manifest = like.manifest
        self.digest = like.digest
        self.labels = like.labels
        self.certified = ""
        self.one_by_one = False

    def prepare(self, _: Any) -> dict[str, Any]:
        """Nothing to prepare."""
        return {}

    def infer(self, _: Any) -> list[Any]:
        """Fails."""
        raise BundleMismatchError("the model gave NaN or infinity", reason="not_finite")


class Watched:
    """A model that notes in which thread it works."""

    def __init__(self, *, model: Model) -> None:
        self._model = model
        self.threads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def infer(self, batch: Any) -> Any:
        """As the model."""
        self.threads.append(threading.get_ident())
        return self._model.infer(batch)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(make_bundle(tmp_path / "bundle", TASK), bounds=TASK.inputs)


def test_an_answer_carries_the_label_the_distribution_and_the_rules_verdict(model: Model) -> None:
    answer = TaskRuntime(task=TASK, model=model).answer(parts_of(sure(2)))
    assert (answer.label, answer.verdict.why) == ("blue", "accepted")
    assert answer.probabilities[2] == max(answer.probabilities)
    assert answer.prepare_ms > 0
    assert answer.model_ms > 0


@pytest.mark.parametrize(("image", "why"), [(unsure(), "low_confidence"), (foreign(), "unsupported")])
def test_what_the_rule_refuses_is_answered_all_the_same_and_says_why(model: Model, image: bytes, why: str) -> None:
    answer = TaskRuntime(task=TASK, model=model).answer(parts_of(image))
    assert (answer.verdict.accepted, answer.verdict.why) == (False, why)
    assert answer.label in TASK.labels


def test_a_question_in_another_script_is_refused_by_the_rule_and_not_an_error(model: Model) -> None:
    """Nothing of it reaches the model, so that its answer would be a guess from the image alone."""
    answer = TaskRuntime(task=TASK, model=model).answer(parts_of(sure(0), "это красный?"))
    assert answer.verdict.why == "unsupported"


def test_a_model_that_was_timed_as_fast_answers_on_the_event_loop(model: Model) -> None:
    runtime = TaskRuntime(task=TASK, model=model)
    assert not runtime.answers_in_loop(100)  # not timed yet
    assert runtime.warm() < LOOP_MS
    assert runtime.answers_in_loop(100)
    assert not runtime.answers_in_loop(LOOP_BYTES + 1)


async def test_a_model_that_was_not_timed_answers_in_a_thread_until_it_proves_fast(model: Model) -> None:
    watched = Watched(model=model)
    runtime = TaskRuntime(task=TASK, model=watched)  # type: ignore[arg-type]  # a model in all that the runtime uses
    await runtime.ask(parts_of(sure(0)))
    assert threading.get_ident() not in watched.threads
    runtime.warm()
    await runtime.ask(parts_of(sure(0)))
    assert watched.threads[-1] == threading.get_ident()
    runtime.close()


async def test_a_swap_in_the_middle_refuses_nothing_and_takes_effect_at_once(tmp_path: Path, model: Model) -> None:
    other = load_model(make_bundle(tmp_path / "other", TASK, seed=1, bias=[0.0, 0.0, 40.0]), bounds=TASK.inputs)
    runtime = TaskRuntime(task=TASK, model=model)
    asked = [asyncio.ensure_future(runtime.ask(parts_of(sure(0)))) for _ in range(20)]
    await asyncio.sleep(0)
    runtime.swap(other)
    later = await runtime.ask(parts_of(sure(0)))
    before = await asyncio.gather(*asked)
    assert {answer.model.digest for answer in before} <= {model.digest, other.digest}
    assert all((answer.label == "blue") == (answer.model is other) for answer in before)
    assert (later.label, later.model) == ("blue", other)
    runtime.close()


def test_served_and_failed_are_of_the_model_in_use(model: Model) -> None:
    runtime = TaskRuntime(task=TASK, model=model)
    runtime.answer(parts_of(sure(0)))
    with pytest.raises(CallerInputError):
        runtime.answer(parts_of(b"no image"))
    assert (runtime.served, runtime.failed) == (1, 0)
    runtime.swap(Brittle(like=model))  # type: ignore[arg-type]  # a model in all that the runtime uses
    with pytest.raises(BundleMismatchError):
        runtime.answer(parts_of(sure(0)))
    assert (runtime.served, runtime.failed, runtime.swaps) == (0, 1, 1)


def test_another_large_model_or_strategy_voids_what_was_certified_of_the_system(model: Model) -> None:
    certificate = model.manifest.certificate
    assert certificate is not None
    system = SystemClaim(gap=0.02, found=0.0, large="expert@1", strategy="shunt")
    model.manifest = replace(model.manifest, certificate=replace(certificate, system=system))
    runtime = TaskRuntime(task=TASK, model=model)

    assert runtime.system_fault == "", "nobody has answered yet"
    assert runtime.heard("expert@1", "shunt") == ""
    assert "expert@2 answers by shunt" in runtime.heard("expert@2", "shunt")
    assert runtime.heard("expert@2", "shunt") == "", "said once"
    assert "certified with expert@1 by shunt" in runtime.system_fault
    assert runtime.heard("expert@1", "soft-prune") != ""
    assert (runtime.heard("expert@1", "shunt"), runtime.system_fault) == ("", "")


def test_a_model_of_another_task_or_other_labels_is_not_swapped_in(tmp_path: Path, model: Model) -> None:
    runtime = TaskRuntime(task=TASK, model=model)
    for name, task in (("name", make_task("shapes")), ("labels", make_task(labels=["green", "red", "blue"]))):
        stranger = load_model(make_bundle(tmp_path / name, task), bounds=TASK.inputs)
        with pytest.raises(BundleMismatchError):
            runtime.swap(stranger)
        assert (runtime.model, runtime.swaps) == (model, 0)
