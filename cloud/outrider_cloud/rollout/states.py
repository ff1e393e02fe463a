"""The states of a rollout and of a device in one, and what a person may do in which, as tables. Does nothing.

Documents and refusals are made from them; a test holds the controller against them.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

State = Literal[
    "scheduled",
    "running",
    "awaiting_approval",
    "undecided",
    "paused",
    "halted",
    "finished",
    "expired",
    "aborted",
    "rolling_back",
    "rolled_back",
]
MemberState = Literal["waiting", "begun", "committed", "failed", "rolled_back", "present", "returned", "withdrawn"]
Act = Literal["approve", "pause", "resume", "abort", "rollback"]


class About(NamedTuple):
    """One row: what a state means."""

    means: str
    orders: bool
    """Whether devices are still ordered to update."""
    watched: bool
    """Whether its thresholds are."""
    over: bool
    """Whether another rollout of its tasks may begin."""


STATES: Mapping[State, About] = {
    "scheduled": About("its start has not come", orders=False, watched=False, over=False),
    "running": About("devices of the stages so far are offered it", orders=True, watched=True, over=False),
    "awaiting_approval": About("the stage is done; a person approves the next", orders=True, watched=True, over=False),
    "undecided": About(
        "the figures prove neither good nor bad; a person decides", orders=True, watched=True, over=False
    ),
    "paused": About("a person holds it: nobody new begins", orders=False, watched=True, over=False),
    "halted": About(
        "a threshold was exceeded: nobody begins, who is mid-way stops", orders=False, watched=False, over=False
    ),
    "finished": About(
        "the last stage is done; who comes back late is still offered it", orders=True, watched=True, over=True
    ),
    "expired": About("the plan's time ran out", orders=False, watched=False, over=True),
    "aborted": About("a person ended it; who has the release keeps it", orders=False, watched=False, over=True),
    "rolling_back": About("who has the release is ordered back", orders=False, watched=False, over=False),
    "rolled_back": About("everybody who could be reached is back", orders=False, watched=False, over=True),
}

MEMBERS: Mapping[MemberState, str] = {
    "waiting": "ordered, and has not begun",
    "begun": "fetching, testing or on probation",
    "committed": "runs it for good",
    "failed": "could not take it: damaged, failed self-test, no room",
    "rolled_back": "took it and went back by itself",
    "present": "ran it before it was ordered to",
    "returned": "went back because it was ordered to",
    "withdrawn": "its order was taken back before it began",
}

_OPEN: tuple[State, ...] = ("scheduled", "running", "awaiting_approval", "undecided", "paused", "halted")
ACTS: Mapping[Act, Mapping[State, State]] = {
    "approve": {"awaiting_approval": "running", "undecided": "running"},
    "pause": dict.fromkeys(("scheduled", "running", "awaiting_approval", "undecided", "finished"), "paused"),
    "resume": dict.fromkeys(("paused", "halted"), "running"),
    "abort": dict.fromkeys((*_OPEN, "finished", "rolling_back"), "aborted"),
    "rollback": dict.fromkeys((*_OPEN[1:], "finished", "aborted"), "rolling_back"),
}
"""What a person may do: in which state, and what it becomes."""

BAD: Mapping[MemberState, str] = {"failed": "failures", "rolled_back": "rollbacks"}
"""How a device may end badly, and the threshold that counts it."""
BEGAN: frozenset[MemberState] = frozenset({"begun", "committed", "failed", "rolled_back", "returned"})
"""Devices that are counted: those of which a word about the release has come."""


def table() -> list[tuple[str, str, str]]:
    """For a document: state, what it means, what a person may do."""
    return [
        (state, about.means, ", ".join(act for act, where in ACTS.items() if state in where) or "–")
        for state, about in STATES.items()
    ]
