"""Whether a device can take a release, asked before the first byte."""

import msgspec
import pytest

from outrider_wire.fitness import Requires, misfit

BOARD = {"arch": "aarch64", "profile": "orin-nano", "memory_mb": "8192", "site": "berlin"}

FITS: dict[str, tuple[Requires, str]] = {
    "nothing is asked": (Requires(), ""),
    "this very agent": (Requires(agent="1.2.3"), ""),
    "an older agent": (Requires(agent="0.9"), ""),
    "a newer agent": (Requires(agent="1.2.4"), "agent_too_old"),
    "ten is more than nine": (Requires(agent="1.10"), "agent_too_old"),
    "this machine": (Requires(arch=["x86_64", "aarch64"]), ""),
    "another machine": (Requires(arch=["x86_64"]), "wrong_arch"),
    "this profile": (Requires(profiles=["orin-nano"]), ""),
    "another profile": (Requires(profiles=["pi-5"]), "wrong_profile"),
    "this much memory": (Requires(memory_mb=8192), ""),
    "more memory": (Requires(memory_mb=8193), "too_little_memory"),
}


@pytest.mark.parametrize("case", FITS)
def test_a_board_is_held_against_what_is_asked(case: str) -> None:
    requires, reason = FITS[case]
    found = misfit(requires, agent="1.2.3", facts=BOARD)
    assert (found.reason if found else "") == reason
    assert found is None or found.what


ASKS = [Requires(agent="0.1"), Requires(arch=["aarch64"]), Requires(profiles=["pi-5"]), Requires(memory_mb=1)]


@pytest.mark.parametrize("requires", ASKS)
def test_a_device_that_does_not_say_is_taken_for_one_that_lacks_it(requires: Requires) -> None:
    assert misfit(requires, agent="", facts={}) is not None


@pytest.mark.parametrize("said", ["", "-1", "1e9", "8192.0", "٨١٩٢", "9" * 400, "lots"])
def test_memory_that_is_no_number_is_none(said: str) -> None:
    found = misfit(Requires(memory_mb=1024), agent="1", facts={"memory_mb": said})
    assert (found is None) == (said == "9" * 400)


@pytest.mark.parametrize("said", ["dev", "v2.0", "", "..", "-1.0"])
def test_an_agent_without_a_number_is_older_than_any(said: str) -> None:
    assert misfit(Requires(agent="0.1"), agent=said, facts={}) is not None


def test_a_suffix_does_not_make_an_agent_older() -> None:
    assert misfit(Requires(agent="1.2"), agent="1.2.0rc1", facts={}) is None
    assert misfit(Requires(agent="1.2"), agent="1.2.dev3+g1234", facts={}) is None


@pytest.mark.parametrize("text", ['{"agent": "one"}', '{"arch": ["../x"]}', '{"memory_mb": -1}', '{"profiles": ["A"]}'])
def test_what_no_device_could_be_held_against_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Requires)
