"""What happens to an input once the acceptance rule has judged it. Pure: knows no cost, link or deadline, and never widens acceptance."""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from outrider_wire.acceptance import Verdict

Sent = Literal["", "low_confidence", "unsupported", "no_certificate", "requested", "audit", "alarm"]
Why = Literal["accepted", "low_confidence", "unsupported", "no_certificate", "requested", "alarm"]


class Suspended(Struct, kw_only=True, frozen=True):
    """The certificate is not claimed any more: its audits have broken the promise."""

    stricter: float | None = None
    """What scores at least this is still answered here, uncertified; None: everything that the rule accepts is sent."""


class Decision(Struct, kw_only=True, frozen=True):
    """Who answers, and what leaves the device."""

    answer_here: bool
    """The device's own answer is the final one."""
    send: bool
    """The input goes to the large model: for its answer, or, when it is answered here, as an audit."""
    why: Why
    """How it was decided, as the caller is told."""
    sent_as: Sent = ""
    """Why it is sent, as the cloud is told; '' when it is not."""
    certified: bool
    """The device's own answer may be given under the certificate."""

    @property
    def audited(self) -> bool:
        """Sent although its answer is given here: a random sample that watches the promise."""
        return self.send and self.answer_here

    @property
    def uncertified(self) -> bool:
        """Answered here although the rule refused it."""
        return self.answer_here and not self.certified


def decide(
    verdict: Verdict,
    *,
    certified: bool,
    wants_cloud: bool,
    audit: bool,
    may_send: bool,
    affordable: bool = True,
    suspended: Suspended | None = None,
) -> Decision:
    """The decision for one input.

    Args:
        verdict: what the acceptance rule says.
        certified: whether the certificate may be claimed for the model that runs; without it nothing is accepted.
        wants_cloud: the caller insists on the large model's answer.
        audit: the keyed hash of the input's id chose it.
        may_send: anything may leave the device at all (privacy, shadow mode, a broker).
        affordable: the budget lets this input be sent for its answer; audits are exempt from it.
        suspended: the alarm over the certificate stands; nothing that is answered here is certified then.
    """
    may_ask = may_send and affordable
    if not verdict.accepted or not certified:
        return _refused(verdict.why if not verdict.accepted else "no_certificate", may_ask=may_ask)
    if not keeps_here(verdict, suspended):
        return _refused("alarm", may_ask=may_ask)
    holds = suspended is None
    why: Why = "accepted" if holds else "alarm"
    if wants_cloud and may_ask:
        return Decision(answer_here=False, send=True, why="requested", sent_as="requested", certified=holds)
    if audit and may_send:
        return Decision(answer_here=True, send=True, why=why, sent_as="audit" if holds else "alarm", certified=holds)
    return Decision(answer_here=True, send=False, why=why, certified=holds)


def keeps_here(verdict: Verdict, suspended: Suspended | None) -> bool:
    """Whether the rule accepts it and an alarm, if there is one, leaves it that: certified or not is another question."""
    if suspended is None:
        return verdict.accepted
    return verdict.accepted and suspended.stricter is not None and verdict.score >= suspended.stricter


def sampled(decision: Decision, verdict: Verdict) -> Decision:
    """The same decision, answered here, with a copy sent as one of a random sample of *all* inputs, accepted or not.

    The cloud, which sees no support distance, is told which of them the rule refuses at any threshold.
    """
    return replace(decision, send=True, sent_as="audit" if verdict.supported else "unsupported")


def _refused(why: Why, *, may_ask: bool) -> Decision:
    if not may_ask:
        return Decision(answer_here=True, send=False, why=why, certified=False)
    sent_as: Sent = "no_certificate" if why == "accepted" else why
    return Decision(answer_here=False, send=True, why=why, sent_as=sent_as, certified=False)
