"""The slot machine as a picture: Mermaid text drawn from `outrider_edge.updates.rules.PHASES`. Draws nothing else."""

from collections.abc import Iterator

from outrider_edge.updates.rules import PHASES

_WORDS: dict[str, str] = {
    "Assigned": "ordered",
    "Permitted": "its time has come",
    "Fetched": "whole and verified",
    "Passed": "golden examples agree",
    "Agreed": "all tasks of the order are armed and loaded",
    "Kept": "all tasks of the order ended well",
    "Unfit": "unfit",
    "Tripped": "failed on live input",
    "Withdrawn": "stopped, or another task failed",
    "Returned": "a person returns",
    "RolledBack": "the release before answers",
}


def diagram() -> str:
    """The states and their ways out, as a Mermaid state diagram."""
    return "\n".join(["stateDiagram-v2", "    [*] --> idle", *_lines()]) + "\n"


def table() -> str:
    """The same as a table in Markdown: what each state waits for and persists, its deadline, and what follows then."""
    rows = ["| state | waits for | persists | deadline (run time) | then |", "|---|---|---|---|---|"]
    for state, phase in PHASES.items():
        deadline = "none" if phase.deadline_s is None else f"{phase.deadline_s / 3600:g} h"
        keeps = ", ".join(f"`{name}`" for name in phase.keeps)
        rows.append(f"| `{state}` | {phase.what} | {keeps} | {deadline} | {phase.late_what or '–'} |")
    return "\n".join(rows) + "\n"


def _lines() -> Iterator[str]:
    for state, phase in PHASES.items():
        for event, way in phase.ways.items():
            for target in way.to:
                if target != state:
                    yield f"    {state} --> {target}: {_WORDS[event.__name__]}"
        for target in phase.boot_to:
            yield f"    {state} --> {target}: {phase.boot_what}"
        for target in phase.late_to:
            yield f"    {state} --> {target}: {phase.late_what} after {phase.deadline_s / 3600:g} h"  # type: ignore[operator]  # late_to has a deadline
