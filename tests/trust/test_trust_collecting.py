"""Which releases stay in the signed metadata: the rule alone."""

from outrider.ota import collecting, publishing
from outrider_trust.facts import ReleaseFacts

TASK = "colours"


def known(digest: str, counter: int) -> publishing.Known:
    facts = ReleaseFacts(task=TASK, version=str(counter), counter=counter)
    return publishing.Known(digest=digest, size=1, facts=facts, automatic=False)


def test_a_release_that_a_device_holds_stays_whatever_its_age() -> None:
    releases = [known("c" * 64, 3), known("b" * 64, 2), known("a" * 64, 1)]
    why = collecting.judge(releases, [], {"a" * 64}, keep=1)
    assert why == {"c" * 64: "one of the 1 newest", "b" * 64: "", "a" * 64: "a device holds it"}


def test_a_release_that_devices_may_be_ordered_back_to_stays_signed() -> None:
    why = collecting.judge([known("b" * 64, 2), known("a" * 64, 1)], [], set(), keep=1, returned={"a" * 64})
    assert why == {"b" * 64: "one of the 1 newest", "a" * 64: "a plan may return to it"}
