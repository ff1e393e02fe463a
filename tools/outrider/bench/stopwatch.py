"""Times a call many times over and says the quantiles. Knows nothing of what it times."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Quantiles in milliseconds."""

    p50_ms: float
    p95_ms: float
    n: int


def timing(samples_ms: list[float]) -> Timing:
    """The quantiles of a list of durations in milliseconds."""
    return Timing(float(np.quantile(samples_ms, 0.50)), float(np.quantile(samples_ms, 0.95)), len(samples_ms))


def time_calls(call: Callable[[int], object], *, n: int, warm_up: int) -> Timing:
    """``call(k)`` for k of 0 … n − 1, after ``warm_up`` calls that are not counted."""
    for k in range(warm_up):
        call(k)
    samples = []
    for k in range(n):
        started = time.perf_counter()
        call(k)
        samples.append(1e3 * (time.perf_counter() - started))
    return timing(samples)
