"""What happens to an input once the acceptance rule has judged it. Pure: knows no cost, link or deadline, and never widens acceptance."""

from typing import Literal

from msgspec import Struct

from outrider_wire.acceptance import Verdict

Sent = Literal["", "low_confidence", "unsupported", "no_certificate", "requested", "audit"]


class Decision(Struct, kw_only=True, frozen=True):
    """Who answers, and what leaves the device."""

    answer_here: bool
    """The device's own answer is the final one."""
    send: bool
    """The input goes to the large model: for its answer, or, when it is answered here, as an audit."""
    why: Literal["accepted", "low_confidence", "unsupported", "no_certificate", "requested"]
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
    verdict: Verdict, *, certified: bool, wants_cloud: bool, audit: bool, may_send: bool, affordable: bool = True
) -> Decision:
    """The decision for one input.

    Args:
        verdict: what the acceptance rule says.
        certified: whether the certificate may be claimed for the model that runs; without it nothing is accepted.
        wants_cloud: the caller insists on the large model's answer.
        audit: the keyed hash of the input's id chose it.
        may_send: anything may leave the device at all (privacy, shadow mode, a broker).
        affordable: the budget lets this input be sent for its answer; audits are exempt from it.
    """
    if not (verdict.accepted and certified):
        why = "no_certificate" if verdict.accepted else verdict.why
        if may_send and affordable:
            return Decision(answer_here=False, send=True, why=why, sent_as=_refused(why), certified=False)
        return Decision(answer_here=True, send=False, why=why, certified=False)
    if wants_cloud and may_send and affordable:
        return Decision(answer_here=False, send=True, why="requested", sent_as="requested", certified=True)
    if audit and may_send:
        return Decision(answer_here=True, send=True, why="accepted", sent_as="audit", certified=True)
    return Decision(answer_here=True, send=False, why="accepted", certified=True)


def _refused(why: Literal["accepted", "low_confidence", "unsupported", "no_certificate"]) -> Sent:
    return "no_certificate" if why == "accepted" else why
