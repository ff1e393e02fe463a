"""How many of the inputs that wait are answered at once. A pure rule over measured times; knows no model and no clock.

A batch is worth it where the model is bound by reading its weights, and a loss where it is bound by its caches: measured on x86-64 with
one thread, eight rows at once took 0.22 of the time of one after another for eight dense layers of 1024, 0.6 for a small convolutional
model whose rows take 20 µs, and 2.8 times the time for one of 64×64 pixels. So nothing is assumed: a size that was not measured is not
used.
"""

from collections.abc import Mapping, Sequence

SIZES = (1, 2, 4, 8)
"""What is measured, and so what is run."""
LEAST_GAIN = 0.9
"""A batch must take at most this share of the time of its rows one by one: less is within what a measurement is worth."""


def rows_now(deadlines: Sequence[float], now: float, cost_s: Mapping[int, float]) -> int:
    """How many of the waiting inputs to answer at once, the longest waiting first.

    The size with the least time a row, among those after which no input that could be answered in time alone comes too late: the first
    never waits for others, and none is taken along into a batch that it cannot afford.

    Args:
        deadlines: of the inputs, the longest waiting first, on the clock of ``now`` in seconds; infinite where there is none.
        now: seconds.
        cost_s: batch size → how long the model takes for it; without an entry for 1, nothing is known.

    Returns:
        1 to ``len(deadlines)``; 0 where nothing waits.
    """
    best, alone = min(1, len(deadlines)), cost_s.get(1)
    if alone is None:
        return best
    for size in sorted(cost_s):
        if size > len(deadlines) or cost_s[size] / size > LEAST_GAIN * alone:
            continue
        late = any(now + alone <= deadline < now + cost_s[size] for deadline in deadlines[:size])
        if not late and cost_s[size] / size < cost_s[best] / best:
            best = size
    return best
