"""When something happens before a camera. Pure: a state and a small grey frame in, the next state and what was seen out.

What the picture usually shows is an exponential mean of each cell (a background model in the manner of Wren et al., Pfinder, 1997),
learnt ten times slower where something differs; how much a cell flickers by itself is the mean of its deviations. A cell *differs*
when it is away from its mean by more than ``contrast`` and by more than `NOISE` times its flicker, after the shift that most cells share
(dusk, the camera's exposure) has been taken out. ::

    quiet ── share of two frames in a row ≥ ``share`` ── an event begins
    event ── below half of ``share`` for ``settle_s`` ── it ends: still
          ── for ``longest_s`` ───────────────────────── it ends: longest; the picture as it is becomes the usual one
    either ─ share ≥ ``scene_share``: another scene ──── an event begins, or goes on; the picture becomes the usual one

What it does not know: what moves, or where. A thing that is still there after ``longest_s`` belongs to the picture; its leaving is an
event.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outrider_edge.sources.settings import MotionSettings

NOISE = 4.0
SLOWER = 10.0
"""So much slower is it learnt what is usual where something differs."""
LEARNING_FRAMES = 8
"""From so many at first it is only learnt what is usual: a sensor's noise would be an event before it is known."""
FRAMES_IN_A_ROW = 2
"""A single frame is none: a torn one of a bad link would be an event."""

Grey = NDArray[np.uint8]
Why = Literal["motion", "scene"]
Ended = Literal["still", "longest"]


class Usual(NamedTuple):
    """What the picture usually shows, cell by cell, in grey levels."""

    mean: NDArray[np.float32]
    flicker: NDArray[np.float32]
    at_s: float
    frames: int
    """That it was learnt from."""


class Away(NamedTuple):
    """How far a frame is from what is usual, cell by cell."""

    levels: NDArray[np.float32]
    differs: NDArray[np.bool_]
    """Where that is a difference."""


class State(NamedTuple):
    """What is known of the past."""

    usual: Usual | None = None
    """None: no frame has come."""
    row: int = 0
    """Frames in a row that differ enough."""
    began_s: float | None = None
    """When the event began; None: it is quiet."""
    moved_s: float = 0.0
    """When something last moved."""


class Seen(NamedTuple):
    """What one frame says."""

    share: float
    """Share of its cells that differ from what is usual."""
    began: Why | None = None
    ended: Ended | None = None


def after(state: State, frame: Grey, at_s: float, terms: MotionSettings) -> tuple[State, Seen]:
    """The next frame.

    Args:
        state: after the one before.
        frame: (`outrider_edge.video.protocol.HEIGHT`, ``WIDTH``) grey levels.
        at_s: when it was taken; never before the one before.
        terms: of the source.
    """
    levels = frame.astype(np.float32)
    if state.usual is None:
        return State(usual=_anew(levels, at_s)), Seen(share=0.0)
    away = _away(state.usual, levels, terms)
    if state.usual.frames < LEARNING_FRAMES:
        everywhere = away._replace(differs=np.zeros_like(away.differs))
        return state._replace(usual=_learnt(state.usual, levels, everywhere, at_s, terms)), Seen(share=0.0)
    share = float(away.differs.mean())
    if share >= terms.scene_share:
        return _another_scene(state, levels, at_s, share)
    usual = _learnt(state.usual, levels, away, at_s, terms)
    row = state.row + 1 if share >= terms.share else 0
    if state.began_s is not None:
        return _going_on(state._replace(usual=usual, row=row), levels, at_s, share, terms)
    if row < FRAMES_IN_A_ROW:
        return state._replace(usual=usual, row=row), Seen(share=share)
    return State(usual=usual, row=row, began_s=at_s, moved_s=at_s), Seen(share=share, began="motion")


def _going_on(
    state: State, levels: NDArray[np.float32], at_s: float, share: float, terms: MotionSettings
) -> tuple[State, Seen]:
    """A frame of an event; ``state`` has learnt from it."""
    moved_s = at_s if share >= terms.share / 2 else state.moved_s
    if state.began_s is not None and at_s - state.began_s >= terms.longest_s:
        flicker = state.usual.flicker if state.usual is not None else None
        return State(usual=_anew(levels, at_s, flicker)), Seen(share=share, ended="longest")
    if at_s - moved_s >= terms.settle_s:
        return State(usual=state.usual), Seen(share=share, ended="still")
    return state._replace(moved_s=moved_s), Seen(share=share)


def _another_scene(state: State, levels: NDArray[np.float32], at_s: float, share: float) -> tuple[State, Seen]:
    began = at_s if state.began_s is None else state.began_s
    flicker = state.usual.flicker if state.usual is not None else None
    found = State(usual=_anew(levels, at_s, flicker), began_s=began, moved_s=at_s)
    return found, Seen(share=share, began="scene" if state.began_s is None else None)


def _away(usual: Usual, levels: NDArray[np.float32], terms: MotionSettings) -> Away:
    away = levels - usual.mean
    away = np.abs(away - np.median(away))
    return Away(away, away > np.maximum(terms.contrast, NOISE * usual.flicker))


def _learnt(usual: Usual, levels: NDArray[np.float32], away: Away, at_s: float, terms: MotionSettings) -> Usual:
    rate = max(1.0 - np.exp(-max(0.0, at_s - usual.at_s) / terms.adapt_s), 1.0 / (1 + usual.frames))
    rates = np.where(away.differs, rate / SLOWER, rate).astype(np.float32)
    mean = usual.mean + rates * (levels - usual.mean)
    flicker = usual.flicker + rates * (np.where(away.differs, usual.flicker, away.levels) - usual.flicker)
    return Usual(mean=mean, flicker=flicker, at_s=at_s, frames=usual.frames + 1)


def _anew(levels: NDArray[np.float32], at_s: float, flicker: NDArray[np.float32] | None = None) -> Usual:
    if flicker is None:
        return Usual(mean=levels, flicker=np.zeros_like(levels), at_s=at_s, frames=1)
    return Usual(mean=levels, flicker=flicker, at_s=at_s, frames=LEARNING_FRAMES)
