"""The gate: who answers, and what leaves the device."""

from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from outrider_edge.journey.gate import Suspended, decide, sampled
from outrider_wire.acceptance import Verdict

ACCEPTED = Verdict(accepted=True, why="accepted", score=0.97)
REFUSED = Verdict(accepted=False, why="low_confidence", score=0.41)
FOREIGN = Verdict(accepted=False, why="unsupported", score=0.99)
NOTHING = {"certified": True, "wants_cloud": False, "audit": False, "may_send": True}


def test_an_accepted_input_is_answered_here_under_the_certificate() -> None:
    decision = decide(ACCEPTED, **NOTHING)
    assert (decision.answer_here, decision.send, decision.why, decision.certified) == (True, False, "accepted", True)


@pytest.mark.parametrize("verdict", [REFUSED, FOREIGN])
def test_a_refused_input_is_sent_for_the_reason_that_it_was_refused(verdict: Verdict) -> None:
    decision = decide(verdict, **NOTHING)
    assert (decision.answer_here, decision.send, decision.sent_as) == (False, True, verdict.why)
    assert not decision.certified


def test_a_refused_input_that_may_not_be_sent_is_answered_here_and_says_uncertified() -> None:
    decision = decide(REFUSED, **(NOTHING | {"may_send": False}))
    assert (decision.answer_here, decision.send, decision.uncertified) == (True, False, True)
    assert decision.why == "low_confidence"


def test_without_a_certificate_even_a_sure_input_is_sent() -> None:
    decision = decide(ACCEPTED, **(NOTHING | {"certified": False}))
    assert (decision.answer_here, decision.sent_as, decision.why) == (False, "no_certificate", "no_certificate")


def test_a_caller_who_insists_gets_the_large_model_and_keeps_the_certificate_of_the_local_answer() -> None:
    decision = decide(ACCEPTED, **(NOTHING | {"wants_cloud": True}))
    assert (decision.answer_here, decision.sent_as, decision.certified) == (False, "requested", True)


def test_an_audit_sends_a_copy_and_changes_nothing_else() -> None:
    plain, audit = decide(ACCEPTED, **NOTHING), decide(ACCEPTED, **(NOTHING | {"audit": True}))
    assert (audit.send, audit.sent_as, audit.audited) == (True, "audit", True)
    assert (audit.answer_here, audit.why, audit.certified) == (plain.answer_here, plain.why, plain.certified)


def test_a_refused_input_is_never_an_audit() -> None:
    assert decide(REFUSED, **(NOTHING | {"audit": True})).sent_as == "low_confidence"


def test_no_wish_and_no_link_ever_widens_acceptance() -> None:
    """Whatever the rest says, what the rule refuses is never called certified, and nothing leaves that may not."""
    for certified, wants, audit, may_send in product((True, False), repeat=4):
        for verdict in (ACCEPTED, REFUSED, FOREIGN):
            flags: dict[str, Any] = {"certified": certified, "wants_cloud": wants, "audit": audit, "may_send": may_send}
            decision = decide(verdict, **flags)
            assert decision.certified == (verdict.accepted and certified)
            assert may_send or (not decision.send and decision.answer_here)
            assert decision.answer_here or decision.send
            assert bool(decision.sent_as) == decision.send


def test_under_an_alarm_what_the_rule_accepts_is_sent_and_nothing_is_certified() -> None:
    decision = decide(ACCEPTED, **NOTHING, suspended=Suspended())
    assert (decision.answer_here, decision.sent_as, decision.why, decision.certified) == (
        False,
        "alarm",
        "alarm",
        False,
    )


def test_under_an_alarm_a_stricter_level_keeps_what_reaches_it_and_says_uncertified() -> None:
    strict = decide(ACCEPTED, **NOTHING, suspended=Suspended(stricter=0.97))
    assert (strict.answer_here, strict.send, strict.why, strict.uncertified) == (True, False, "alarm", True)
    assert decide(ACCEPTED, **NOTHING, suspended=Suspended(stricter=0.98)).sent_as == "alarm"


def test_a_sample_of_what_the_stricter_level_keeps_is_not_sent_as_an_audit_of_the_rule() -> None:
    """It is a sample of the surest part alone: as audits of all that the rule accepts these would certify what the alarm broke."""
    sampled = decide(ACCEPTED, **{**NOTHING, "audit": True}, suspended=Suspended(stricter=0.97))
    assert (sampled.answer_here, sampled.send, sampled.sent_as) == (True, True, "alarm")


def test_no_wish_and_no_link_makes_an_answer_certified_under_an_alarm() -> None:
    for wants, audit, may_send, stricter in product((True, False), (True, False), (True, False), (None, 0.5, 0.99)):
        for verdict in (ACCEPTED, REFUSED, FOREIGN):
            decision = decide(
                verdict,
                certified=True,
                wants_cloud=wants,
                audit=audit,
                may_send=may_send,
                suspended=Suspended(stricter=stricter),
            )
            assert not decision.certified
            assert decision.answer_here or decision.send
            assert may_send or not decision.send
            assert verdict.accepted or decision == decide(
                verdict, certified=True, wants_cloud=wants, audit=audit, may_send=may_send
            )


def test_a_sample_of_all_inputs_changes_no_answer_and_names_what_support_refuses() -> None:
    for verdict, sent_as in (
        (ACCEPTED, "audit"),
        (REFUSED, "audit"),
        (replace(FOREIGN, supported=False), "unsupported"),
    ):
        plain = decide(verdict, **(NOTHING | {"may_send": False}))
        sample = sampled(plain, verdict)
        assert (sample.audited, sample.sent_as) == (True, sent_as)
        assert replace(sample, send=False, sent_as="") == plain
