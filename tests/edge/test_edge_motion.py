"""The motion gate: what is an event and what is not, on synthetic frames with their negative controls."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_edge.sources.settings import MotionSettings
from outrider_edge.video.motion import Grey, Seen, State, after
from outrider_edge.video.protocol import HEIGHT, WIDTH

FPS = 10
TERMS = MotionSettings()


def scene(seed: int = 1) -> Grey:
    """Something to look at: blocks of different greys."""
    blocks = np.random.default_rng(seed).integers(40, 200, (HEIGHT // 4, WIDTH // 4))
    return np.kron(blocks, np.ones((4, 4))).astype(np.uint8)


def with_block(frame: Grey, left: int, *, side: int = 8, level: int = 250) -> Grey:
    drawn = frame.copy()
    drawn[10 : 10 + side, max(0, left) : max(0, left + side)] = level
    return drawn


def watched(frames: Iterable[Grey], terms: MotionSettings = TERMS, *, fps: float = FPS) -> list[tuple[float, Seen]]:
    state, found = State(), []
    for number, frame in enumerate(frames):
        state, seen = after(state, frame, number / fps, terms)
        found.append((number / fps, seen))
    return found


def began(found: list[tuple[float, Seen]]) -> list[tuple[float, str]]:
    return [(at_s, seen.began) for at_s, seen in found if seen.began is not None]


def ended(found: list[tuple[float, Seen]]) -> list[tuple[float, str]]:
    return [(at_s, seen.ended) for at_s, seen in found if seen.ended is not None]


def crossing(frame: Grey, *, frames: int = 20) -> Iterator[Grey]:
    yield from (with_block(frame, round(number / frames * (WIDTH + 8)) - 8) for number in range(frames))


def test_what_passes_is_one_event_that_ends_when_it_is_gone() -> None:
    found = watched([*[scene()] * 20, *crossing(scene()), *[scene()] * 40])
    [(start, why)], [(stop, how)] = began(found), ended(found)
    assert (why, how) == ("motion", "still")
    assert 2.0 <= start <= 2.6
    assert 4.0 + TERMS.settle_s - 0.5 <= stop <= 4.0 + TERMS.settle_s + 0.5


def test_two_that_pass_soon_after_each_other_are_one_event_and_later_ones_are_two() -> None:
    soon = [*[scene()] * 20, *crossing(scene()), *[scene()] * 10, *crossing(scene()), *[scene()] * 40]
    later = [*[scene()] * 20, *crossing(scene()), *[scene()] * 40, *crossing(scene()), *[scene()] * 40]
    assert [len(began(watched(frames))) for frames in (soon, later)] == [1, 2]


def test_one_torn_frame_is_no_event() -> None:
    torn = with_block(scene(), 20, side=16)
    assert began(watched([*[scene()] * 20, torn, *[scene()] * 20])) == []


def test_dusk_and_a_camera_that_opens_its_iris_are_none() -> None:
    base = scene().astype(float)
    dusk = [np.clip(base - 40 * number / 600, 0, 255).astype(np.uint8) for number in range(600)]
    iris = [*[scene()] * 20, *[np.clip(base + 30, 0, 255).astype(np.uint8)] * 40]
    assert began(watched(dusk)) == began(watched(iris)) == []


def test_another_scene_is_one_event() -> None:
    found = watched([*[scene(1)] * 20, *[255 - scene(2)] * 60])
    assert began(found) == [(2.0, "scene")]
    assert [how for _, how in ended(found)] == ["still"]


def test_what_stays_becomes_part_of_the_picture_and_its_leaving_is_an_event() -> None:
    terms = MotionSettings(longest_s=5.0)
    parked = with_block(scene(), 20)
    found = watched([*[scene()] * 20, *[parked] * 200, *[scene()] * 60], terms)
    assert [why for _, why in began(found)] == ["motion", "motion"]
    assert next(how for _, how in ended(found)) == "longest"
    assert began(found)[1][0] == pytest.approx(22.0, abs=0.3)


def test_a_bush_in_the_wind_is_none_once_it_is_known_to_flicker() -> None:
    dice = np.random.default_rng(5)
    frames = []
    for _ in range(600):
        frame = scene().astype(float)
        frame[20:30, 10:20] += dice.normal(0, 12, (10, 10))
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    assert [at_s for at_s, _ in began(watched(frames)) if at_s > 20] == []


@pytest.mark.parametrize("sigma", [0.0, 3.0, 6.0])
def test_five_minutes_of_a_still_scene_hold_no_event_and_ten_that_pass_are_ten(sigma: float) -> None:
    """The negative control and the count, at three strengths of noise that is left after a frame is made small."""
    dice = np.random.default_rng(17)

    def noisy(frames: Iterable[Grey]) -> Iterator[Grey]:
        for frame in frames:
            yield np.clip(frame + dice.normal(0, sigma, frame.shape), 0, 255).astype(np.uint8)

    quiet = [scene()] * (5 * 300)
    assert began(watched(noisy(quiet), fps=5)) == []
    busy = [each for _ in range(10) for each in (*[scene()] * 60, *crossing(scene(), frames=15))]
    found = watched(noisy([*busy, *[scene()] * 60]), fps=5)
    assert len(began(found)) == len(ended(found)) == 10


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(-4, WIDTH), st.floats(0.0, 3.0)), max_size=60),
    st.floats(0.001, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_events_begin_and_end_in_turn_whatever_comes(shown: list[tuple[int, int, float]], share: float) -> None:
    state, at_s, open_ = State(), 0.0, False
    for level, left, pause_s in shown:
        at_s += pause_s
        frame = with_block(np.full((HEIGHT, WIDTH), level // 2, np.uint8), left, level=level)
        state, seen = after(state, frame, at_s, MotionSettings(share=share, longest_s=10.0))
        assert not (seen.began and open_)
        assert not (seen.ended and not open_)
        open_ = bool(seen.began) or (open_ and not seen.ended)
        assert (state.began_s is not None) == open_
        assert 0.0 <= seen.share <= 1.0
