"""Several models under one bound of memory: the longest unused goes, never one in use, and comes back when it is asked."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory import LABELS, make_bundle, make_task, onnx_bytes, parts_of, sure
from outrider_engine.model import Model, load_model
from outrider_engine.resident import BASE_BYTES, COPIES, Residents
from outrider_engine.session import Feeds, OrtSession
from outrider_wire.errors import BundleDamagedError, BundleMismatchError

DATA = onnx_bytes(LABELS)
FEEDS = {"pixels": np.zeros((1, 3, 32, 32), np.float32), "words": np.zeros((1, 96), np.float32)}
ONE = COPIES * len(DATA) + BASE_BYTES


class Loads:
    """Counts how often a model is loaded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> OrtSession:
        self.count += 1
        return OrtSession(DATA)


def test_the_longest_unused_makes_room_and_comes_back_when_it_is_asked() -> None:
    residents, loads = Residents(2 * ONE), [Loads() for _ in range(3)]
    first, second, third = (residents.session(f"m{n}", len(DATA), load) for n, load in enumerate(loads))
    assert residents.taken_bytes == 2 * ONE
    assert [each.resident for each in (first, second, third)] == [False, True, True]  # type: ignore[attr-defined]
    second.run(FEEDS)
    first.run(FEEDS)
    assert [each.resident for each in (first, second, third)] == [True, True, False]  # type: ignore[attr-defined]
    assert [load.count for load in loads] == [2, 1, 1]


def test_one_that_is_in_use_is_waited_for_and_never_let_go() -> None:
    residents, began, go = Residents(ONE), threading.Event(), threading.Event()

    class Slow(OrtSession):
        def run(self, feeds: Feeds) -> dict[str, Any]:
            """Until it may go on."""
            began.set()
            assert go.wait(20)
            return super().run(feeds)

    slow = residents.session("slow", len(DATA), lambda: Slow(DATA))
    said: list[str] = []

    def in_thread(name: str, work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=lambda: (work(), said.append(name)))
        thread.start()
        return thread

    running = in_thread("slow", lambda: slow.run(FEEDS))
    assert began.wait(20)
    waiting = in_thread("other", lambda: residents.session("other", len(DATA), Loads()))
    waiting.join(0.2)
    assert (said, slow.resident) == ([], True)  # type: ignore[attr-defined]
    go.set()
    running.join(20)
    waiting.join(20)
    assert (said, slow.resident) == (["slow", "other"], False)  # type: ignore[attr-defined]


def test_two_threads_that_want_the_same_model_wait_for_room_for_one() -> None:
    residents, began, go = Residents(ONE), threading.Event(), threading.Event()

    class Slow(OrtSession):
        def run(self, feeds: Feeds) -> dict[str, Any]:
            """Until it may go on."""
            began.set()
            assert go.wait(20)
            return super().run(feeds)

    wanted = residents.session("wanted", len(DATA), Loads())
    slow = residents.session("slow", len(DATA), lambda: Slow(DATA))
    running = threading.Thread(target=lambda: slow.run(FEEDS), daemon=True)
    running.start()
    assert began.wait(20)
    asking = [threading.Thread(target=lambda: wanted.run(FEEDS), daemon=True) for _ in range(2)]
    for thread in asking:
        thread.start()
        thread.join(0.1)
    go.set()
    for thread in (running, *asking):
        thread.join(5)
    assert not any(thread.is_alive() for thread in asking)
    assert residents.taken_bytes == ONE


def test_one_model_above_the_bound_is_refused_in_words() -> None:
    with pytest.raises(BundleMismatchError, match=r"runtime\.models_mb is 1") as caught:
        Residents(1 << 20).session("colours 7 (fp32)", len(DATA), Loads())
    assert caught.value.reason == "model_over_budget"


def test_a_model_that_nobody_holds_takes_no_room() -> None:
    residents, loads = Residents(2 * ONE), Loads()
    kept = residents.session("kept", len(DATA), loads)
    residents.session("gone", len(DATA), Loads())
    gc.collect()
    assert residents.taken_bytes == ONE
    residents.session("next", len(DATA), Loads())
    assert (kept.run(FEEDS)["logits"].shape, loads.count) == ((1, len(LABELS)), 1)


def test_one_that_cannot_be_loaded_takes_no_room_and_is_tried_again() -> None:
    residents, fails = Residents(ONE), True

    def load() -> OrtSession:
        if fails:
            raise BundleDamagedError("gone", reason="file_missing")
        return OrtSession(DATA)

    with pytest.raises(BundleDamagedError):
        residents.session("broken", len(DATA), load)
    assert residents.taken_bytes == 0
    fails = False
    held = residents.session("mended", len(DATA), load)
    residents.session("other", len(DATA), Loads())
    fails = True
    with pytest.raises(BundleDamagedError):
        held.run(FEEDS)
    fails = False
    assert held.run(FEEDS)


def test_threads_of_many_models_under_a_small_bound_all_get_their_answers(tmp_path: Path) -> None:
    residents = Residents(2 * (COPIES * len(DATA) + 2 * BASE_BYTES))
    task = make_task()
    models = [load_model(make_bundle(tmp_path / str(n), task, seed=n), residents=residents) for n in range(4)]
    wrong: list[str] = []

    def ask(model: Model) -> None:
        for _ in range(15):
            [said] = model.infer([model.prepare(parts_of(sure(2)))])
            if model.labels[int(said.probabilities.argmax())] != "blue":
                wrong.append("wrong")

    threads = [threading.Thread(target=ask, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    assert residents.taken_bytes <= 2 * (COPIES * len(DATA) + 2 * BASE_BYTES)
    assert not all(model.resident for model in models)
