"""The states of an input in the cloud, as a table: what makes each, what is durable in it, what its device is told. Does nothing.

Documents are made from it, and a test holds it against what a running cloud does.
"""

from typing import Literal, NamedTuple

State = Literal["offered", "admitted", "claimed", "answered", "refused", "expired", "forgotten"]
Told = Literal["nothing", "receipt", "answer", "refusal", "busy"]


class Change(NamedTuple):
    """One line: in a state, something happens, and this is what comes of it."""

    state: State
    event: str
    then: State
    durable: str
    """What stands in the store when the device is told; '' where it is nothing new."""
    told: Told
    reason: str = ""
    """Of a refusal, where there is one; of ``busy``, its detail."""


CHANGES: tuple[Change, ...] = (
    Change("offered", "it cannot be read, or is of no task served here", "offered", "a dead letter", "refusal", "any"),
    Change("offered", "its device asks too often", "offered", "", "busy", "device_rate"),
    Change("offered", "its task is asked too often", "offered", "", "busy", "task_rate"),
    Change("offered", "too many wait", "offered", "", "busy", "queue_full"),
    Change("offered", "the parts of those that wait are too large", "offered", "", "busy", "bytes_full"),
    Change("offered", "its device holds more than its share of what waits", "offered", "", "busy", "over_share"),
    Change("offered", "the process is about to end", "offered", "", "busy", "draining"),
    Change("offered", "it was answered before", "answered", "", "answer"),
    Change("offered", "it waits already", "claimed", "", "receipt"),
    Change("offered", "there is room", "admitted", "", "nothing"),
    Change("admitted", "a part is being pulled", "admitted", "", "nothing"),
    Change("admitted", "a part does not come in time", "offered", "", "nothing"),
    Change("admitted", "a part that HTTP cannot be asked for was not put", "offered", "", "refusal", "part_not_here"),
    Change("admitted", "its device has the part no more", "refused", "the refusal", "refusal", "payload_unavailable"),
    Change("admitted", "the store cannot be written", "offered", "", "busy", "store"),
    Change("admitted", "the claim is committed", "claimed", "the escalation and a lease", "receipt"),
    Change("admitted", "the model is quick", "answered", "claim and answer, in one commit", "answer"),
    Change(
        "claimed", "its worker falls silent, and the lease runs out", "claimed", "another worker's lease", "nothing"
    ),
    Change("claimed", "it took its workers down again and again", "refused", "the refusal", "refusal", "gave_up"),
    Change("claimed", "its row cannot be read any more", "refused", "the refusal", "refusal", "stored_unreadable"),
    Change("claimed", "a part that was stored is gone", "refused", "the refusal", "refusal", "payload_lost"),
    Change("claimed", "the large model's server is down, slow or writes nonsense", "claimed", "", "nothing"),
    Change("claimed", "the large model fails on it alone", "refused", "the refusal", "refusal", "large_model_failed"),
    Change("claimed", "the large model refuses it", "refused", "the refusal", "refusal", "any"),
    Change("claimed", "nobody wants it any more", "expired", "the refusal", "refusal", "expired"),
    Change("claimed", "the large model answers", "answered", "the answer, and an example to learn from", "answer"),
    Change("claimed", "the answer cannot be written", "claimed", "", "nothing"),
    Change("claimed", "an operator has it forgotten", "forgotten", "that one more was refused", "refusal", "forgotten"),
    Change("answered", "the broker does not take the answer", "answered", "that it is unsent", "nothing"),
    Change("answered", "the broker comes back, or the process does", "answered", "", "answer"),
    Change("answered", "a day after nobody wants it any more", "forgotten", "the account's count", "nothing"),
)

ENDS: frozenset[State] = frozenset({"answered", "refused", "expired"})
"""Where the account counts it: exactly one of them, set once."""


def diagram() -> str:
    """The table as a Mermaid state diagram; what stays in its state is left out."""
    lines = ["stateDiagram-v2", "    [*] --> offered"]
    for change in CHANGES:
        if change.then != change.state:
            said = f" / {change.told} {change.reason}".rstrip() if change.told != "nothing" else ""
            lines.append(f"    {change.state} --> {change.then}: {change.event.replace(';', ',')}{said}")
    return "\n".join(lines)


def rows() -> list[tuple[str, ...]]:
    """The table for a document: state, event, then, what is durable, what the device is told."""
    return [
        (
            change.state,
            change.event,
            change.then,
            change.durable or "–",
            f"{change.told} ({change.reason})" if change.reason else change.told,
        )
        for change in CHANGES
    ]
