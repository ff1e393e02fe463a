"""Whether a new model has earned its place: a pure rule over what was seen of it. Knows no model, clock or files.

Time is run time: a device that is switched off at night is not watched then. A probation ends well after enough answers and enough time,
whichever is later, and after `most_s` in any case; in between, fewer and fewer answers are enough, in proportion to the time that is left,
so that a device that answers seldom is watched for longer, and not for ever. Agreement with the model before is a share of few inputs,
so that it trips only when chance is no excuse: the Chernoff bound, exp(-n KL(k/n, p)), over all looks at once (a look after n inputs
has 1/(n(n+1)) of the permitted false alarms; their sum is one).
"""

import math

from msgspec import Struct

from outrider_edge.updates.events import Healthy, Tripped


class ProbationTerms(Struct, kw_only=True, frozen=True):
    """What a new model must keep to."""

    answers: int = 200
    """So many answers, after `least_s`, end it well; later, fewer do (`enough`)."""
    least_s: float = 1800.0
    most_s: float = 86_400.0
    """No probation is longer, however few the answers were."""
    failures: int = 0
    """Valid inputs on which the model may fail (it raises, or gives NaN or infinity)."""
    agreement: float = 0.5
    """Least share of inputs on which it says what the model before says; 0: not asked."""
    false_alarm: float = 1e-3
    """Chance that a model of just that agreement is rolled back for it."""
    slower: float = 4.0
    """Its p95 may be so many times that of the model before; 0: not asked."""
    slack_ms: float = 20.0
    """And so much more: a fast model's p95 is noise."""
    memory_mb: float = 512.0
    """How much more the process may have resident than before; 0: not asked."""
    least_headroom_c: float = 0.0
    """Trips when the board was further from throttling before and is nearer than this now; negative: not asked."""
    timed: int = 50
    """Latencies are compared from so many inputs on."""


class Seen(Struct, kw_only=True, frozen=True):
    """What was seen of a model since it came into use."""

    run_s: float = 0.0
    answers: int = 0
    failures: int = 0
    compared: int = 0
    """Inputs that the model before has answered too."""
    agreed: int = 0
    timed: int = 0
    p95_ms: float = 0.0
    p95_before_ms: float = 0.0
    """0: not known."""
    rss_mb: float = 0.0
    rss_before_mb: float = 0.0
    headroom_c: float | None = None
    """Degrees until the board throttles; None: it does not tell."""
    headroom_before_c: float | None = None
    alarm: bool = False
    """The watch over the new model's certificate has raised its alarm: its audits are wrong more often than promised."""
    contact: bool = True
    """The cloud was reached since, or there is none."""


def verdict(seen: Seen, terms: ProbationTerms) -> Healthy | Tripped | None:
    """Kept, rolled back, or None: it is watched on."""
    if (tripped := _tripped(seen, terms)) is not None:
        return tripped
    if seen.answers >= enough(seen.run_s, terms) and seen.contact:
        return Healthy()
    return None


def enough(run_s: float, terms: ProbationTerms) -> float:
    """How many answers end a probation well after ``run_s``: infinitely many at first, all of them at `least_s`, none at `most_s`."""
    if run_s >= terms.most_s:
        return 0.0
    if run_s < terms.least_s:
        return math.inf
    return terms.answers * (terms.most_s - run_s) / (terms.most_s - terms.least_s)


def _tripped(seen: Seen, terms: ProbationTerms) -> Tripped | None:
    found = (
        _failures(seen, terms),
        _disagreement(seen, terms),
        _alarm(seen),
        _latency(seen, terms),
        _memory(seen, terms),
        _heat(seen, terms),
    )
    return next((tripped for tripped in found if tripped is not None), None)


def _failures(seen: Seen, terms: ProbationTerms) -> Tripped | None:
    if seen.failures <= terms.failures:
        return None
    return Tripped("the model failed on live input", "live_failure")


def _disagreement(seen: Seen, terms: ProbationTerms) -> Tripped | None:
    if not terms.agreement or not disagrees(seen.agreed, seen.compared, terms.agreement, terms.false_alarm):
        return None
    share = seen.agreed / seen.compared
    return Tripped(
        f"it says what the model before says on {share:.0%} of {seen.compared} inputs, surely less than {terms.agreement:.0%}",
        "live_disagreement",
    )


def disagrees(agreed: int, compared: int, least: float, false_alarm: float) -> bool:
    """Whether so few agreements show that the true share is below ``least``, whenever one looks.

    For independent inputs the chance that this is ever true though the share is ``least`` or more is at most ``false_alarm``.
    """
    if not compared or agreed / compared >= least:
        return False
    return compared * _kl(agreed / compared, least) >= math.log(compared * (compared + 1) / false_alarm)


def _kl(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli distributions."""
    head = p * math.log(p / q) if p else 0.0
    tail = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0
    return head + tail if q < 1 else (0.0 if p == 1 else math.inf)


def _alarm(seen: Seen) -> Tripped | None:
    return Tripped("its audits are wrong more often than its certificate promises", "live_risk") if seen.alarm else None


def _latency(seen: Seen, terms: ProbationTerms) -> Tripped | None:
    most_ms = terms.slower * seen.p95_before_ms + terms.slack_ms
    if not terms.slower or not seen.p95_before_ms or seen.timed < terms.timed or seen.p95_ms <= most_ms:
        return None
    return Tripped(
        f"its p95 is {seen.p95_ms:.1f} ms, and of the model before {seen.p95_before_ms:.1f} ms", "live_latency"
    )


def _memory(seen: Seen, terms: ProbationTerms) -> Tripped | None:
    more = seen.rss_mb - seen.rss_before_mb
    if not terms.memory_mb or not seen.rss_before_mb or more <= terms.memory_mb:
        return None
    return Tripped(f"the agent has {more:.0f} MB more resident than before", "live_memory")


def _heat(seen: Seen, terms: ProbationTerms) -> Tripped | None:
    now, before = seen.headroom_c, seen.headroom_before_c
    if now is None or before is None or terms.least_headroom_c < 0:
        return None
    if now > terms.least_headroom_c or before <= terms.least_headroom_c:
        return None
    return Tripped(f"the board is {now:.1f} °C from throttling, and was {before:.1f} °C before", "live_heat")
