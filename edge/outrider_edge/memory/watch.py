"""Whether the memory may go on: its audited answers against what the large model says of the same inputs. Pure.

**The test.** Every disagreement is a look: the k-th one comes at the n-th audit. Were the share of disagreements at most r, the
chance to see k of them in n audits or fewer is P(Bin(n, r) ≥ k), a p-value whenever one looks at it just then (it is the law of
the waiting time until the k-th). Look k may use δ·6/(π²k²), so that all looks together switch a memory off that is within its
bound with probability at most δ.
"""

from outrider_wire.certificate import binomial_tail, reused_delta


class MemoryWatch:
    """Counts of one memory under one model.

    Args:
        risk: r, the largest tolerated share of disagreements.
        delta: δ, the tolerated chance of a false alarm.
    """

    def __init__(self, *, risk: float, delta: float) -> None:
        self._risk = risk
        self._delta = delta
        self.audited = 0
        """Audited answers that the large model has answered as well."""
        self.disagreed = 0
        self.off = False
        """Shown to disagree too often. Stays until `restart`."""

    def saw(self, *, agrees: bool) -> bool:
        """One more audited answer; True when it has just shown that the memory is wrong too often."""
        self.audited += 1
        self.disagreed += int(not agrees)
        if agrees or self.off:
            return False
        by_chance = 1.0 - binomial_tail(self.disagreed - 1, self.audited, self._risk)
        self.off = by_chance <= reused_delta(self._delta, self.disagreed)
        return self.off

    def restart(self) -> None:
        """Another model, another memory."""
        self.audited = self.disagreed = 0
        self.off = False
