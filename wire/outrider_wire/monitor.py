"""Whether a certificate's promise still holds while it is used: an e-detector on audits (Shin, Ramdas & Rinaldo, arXiv 2203.03532).

Knows losses in {0, 1} in the order in which audits end, and neither inputs nor models.

**The evidence of one audit.** While P(L = 1 | everything before) ≤ r, ``E[1 + b (L − r)] ≤ 1`` for every bet b ≥ 0: an e-value.
With ``b = (q − r) / (r (1 − r))`` it is the likelihood ratio of risk q against risk r; a few q are bet on at once.

**The sum.** ``M_t = (M_{t−1} + 1) · e_t`` (Shiryaev–Roberts) is the sum over every possible moment of change s ≤ t of the evidence
gathered since s. So ``M_t − t`` is a supermartingale while the promise holds, the same is true of a mixture over bets, and at the
first time T with ``M_T ≥ 1/α``: ``1/α ≤ E[M_T] ≤ E[T]``. That is the promise made here: while the risk is at most r, false alarms
are on average at least 1/α audits apart, whatever the order of the losses. ``CUSUM``, ``M_t = max(M_{t−1}, 1) · e_t``, is never
larger, so that the same holds of it.

**Why no plain product.** ``∏ e_t`` shrinks with every clean audit, and a later change must first win all of that back: after
5,000 clean audits it was deaf for 3,310 more (measured). Both forms here are bounded below, whatever came before.
"""

from functools import lru_cache
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_wire.manifest import Certificate

Form = Literal["shiryaev-roberts", "cusum"]
ODDS = (1.5, 3.0, 8.0)
"""The risks bet on: the odds of an error are that many times those of the promised risk."""
MAX_STATISTIC = 1e12
"""What a form is cut off at: an alarm is long over, and less never makes one sooner."""
_LARGEST_RISK = 0.99


class Monitor(Struct, kw_only=True, frozen=True):
    """What is known so far; a value that can be saved and gone on from."""

    risk: Annotated[float, Meta(gt=0.0, lt=1.0)]
    """r: the rate of errors among audits that is still within the promise."""
    alpha: Annotated[float, Meta(gt=0.0, le=1.0)]
    """1/alpha: the audits between two false alarms, on average, at least."""
    form: Form = "shiryaev-roberts"
    sums: tuple[float, ...] = (0.0,) * len(ODDS)
    """One statistic a bet."""
    audits: int = 0
    errors: int = 0
    alarmed_at: int = 0
    """The audit, counted from 1, at which the statistic first reached its limit; 0: it never has."""

    @property
    def statistic(self) -> float:
        """The mixture over the bets."""
        return sum(self.sums) / len(self.sums)

    @property
    def limit(self) -> float:
        """An alarm is raised when the statistic reaches this."""
        return 1.0 / self.alpha

    @property
    def alarmed(self) -> bool:
        """The promise is broken, as far as can be told. Once said, it stays so."""
        return self.alarmed_at > 0


def observe(monitor: Monitor, loss: int) -> Monitor:
    """One more audit has ended: ``loss`` is 1 when the device's answer was wrong, or when nobody can say."""
    evidence = [1.0 + bet * (loss - monitor.risk) for bet in bets(monitor.risk)]
    sums = tuple(_step(monitor.form, old, e) for old, e in zip(monitor.sums, evidence, strict=True))
    counted = replace(monitor, sums=sums, audits=monitor.audits + 1, errors=monitor.errors + loss)
    if counted.alarmed or counted.statistic < counted.limit:
        return counted
    return replace(counted, alarmed_at=counted.audits)


@lru_cache(maxsize=64)
def bets(risk: float) -> tuple[float, ...]:
    """The stake of each bet: ``(q − r) / (r (1 − r))`` for the risk q that has ``ODDS`` times the odds of r."""
    likelier = [odds * risk / (1.0 - risk + odds * risk) for odds in ODDS]
    return tuple((q - risk) / (risk * (1.0 - risk)) for q in likelier)


def resumed(saved: Monitor | None, wanted: Monitor) -> Monitor:
    """The monitor to go on with: the saved one of this certificate, or ``wanted``, when there is none.

    Evidence against another risk is none against this one: with other terms it starts afresh, except that an alarm stays.
    """
    if saved is None:
        return wanted
    same = (saved.risk, saved.alpha, saved.form) == (wanted.risk, wanted.alpha, wanted.form)
    return saved if same or saved.alarmed else wanted


def tolerated_risk(certificate: Certificate, large_error: float) -> float:
    """The rate of disagreement with the large model that the certificate's promise still allows.

    A certificate about agreement with the large model allows r*. One about the truth allows r* plus a bound on the large
    model's own error: the two answers can only differ where at least one of them is wrong.
    """
    slack = large_error_of(certificate, large_error) if certificate.label_source == "ground_truth" else 0.0
    return min(certificate.risk + slack, _LARGEST_RISK)


def large_error_of(certificate: Certificate, otherwise: float) -> float:
    """The bound on the large model's error that the certificate names, or ``otherwise``."""
    return otherwise if certificate.large_error is None else certificate.large_error


def _step(form: Form, old: float, e: float) -> float:
    before = old + 1.0 if form == "shiryaev-roberts" else max(old, 1.0)
    return min(before * e, MAX_STATISTIC)
