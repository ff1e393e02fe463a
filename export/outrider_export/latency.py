"""How long a session takes, one row at a time, warm. Loads nothing but the session that it is given."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from outrider_engine.session import Feeds, Session

_WARM_RUNS = 20
_TIMED_RUNS = 300
_MOST_S = 3.0


class Latency(NamedTuple):
    """Milliseconds of one row."""

    p50_ms: float
    p95_ms: float


def timed(session: Session, rows: Sequence[Feeds]) -> Latency:
    """Median and 95 % quantile of 300 runs, or of as many as three seconds hold; each of ``rows`` has a batch axis of one."""
    taken: list[float] = []
    end = time.perf_counter() + _MOST_S
    for run in range(_WARM_RUNS + _TIMED_RUNS):
        began = time.perf_counter()
        session.run(rows[run % len(rows)])
        now = time.perf_counter()
        taken.append((now - began) * 1e3)
        if now > end and run > _WARM_RUNS + 20:
            break
    warm = taken[_WARM_RUNS:]
    return Latency(round(statistics.median(warm), 4), round(statistics.quantiles(warm, n=20)[-1], 4))
