"""Every reason code that an escalation, a part of an input or a dead letter can meet on its way, and what to do about it. Pure.

The rows are in `outrider_wire.reason_rows` (device, broker, what both share), `reason_rows_cloud` and `reason_rows_trust`; documents and
commands are made from them, and a test holds them against the code. What keeps a process from starting is not here: it says
itself what to do.
"""

from collections.abc import Mapping

from outrider_wire.reason_row import Reason, Stage
from outrider_wire.reason_rows import ROWS
from outrider_wire.reason_rows_cloud import CLOUD_ROWS
from outrider_wire.reason_rows_trust import TRUST_ROWS

STAGES: Mapping[Stage, str] = {
    "asked": "**Refused by the device, as an error to its caller.** Nothing was accepted; counted in `outrider_refusals`.",
    "part": (
        "**A part that cannot be read.** The device says it to its caller; the cloud, of what came all the same, as a refusal."
    ),
    "stays": (
        "**Not sent.** The device's own answer stands, uncertified, and its note says why; counted in `outrider_not_sent`. "
        "An audit that is not kept counts as an error."
    ),
    "link": "**The broker is not reached, or says no.** Nothing is lost: questions wait in the outbox. In the agent's log.",
    "blob": "**A large part is on its way**, over the broker or HTTP. In the logs of whoever pulls, and in replies over HTTP.",
    "letter": (
        "**The message cannot be taken.** It becomes a dead letter (`outrider_dead_letters`); of an escalation the device is told, "
        "and the input ends as `refused`."
    ),
    "busy": "**Not now.** Details of `busy`, counted in `outrider_shed`: the device keeps the question and comes again.",
    "later": "**Later.** The question waits, on the device or in the cloud; nothing has ended.",
    "ended": "**Ended without an answer.** The input is `refused` (or `expired`) on both sides; an audit counts as an error.",
    "ignored": "**Came from the cloud and changed nothing**: counted by the device in `outrider_downlink_ignored`.",
    "trust": "**Not believed, or not taken, of signed metadata.** Nothing new comes; what runs goes on. In reports, logs and replies.",
}
"""The parts of the way in order, each with what its codes have in common."""

TABLE: Mapping[str, Reason] = {row.code: row for row in (*ROWS, *CLOUD_ROWS, *TRUST_ROWS)}


def what_to_do(code: str) -> str:
    """Who must act on a code, and how; '' for one that is not in the table."""
    row = TABLE.get(code)
    return "" if row is None else f"{row.do} ({row.acts})"


def tables() -> str:
    """All of it as Markdown: a table for each part of the way, its codes in the order of the alphabet."""
    lines: list[str] = []
    for stage, about in STAGES.items():
        rows = sorted(row for row in TABLE.values() if row.stage == stage)
        lines += [about, "", "| code | said by | means | who acts | what to do |", "|---|---|---|---|---|"]
        lines += [f"| `{row.code}` | {' or '.join(row.by)} | {row.means} | {row.acts} | {row.do} |" for row in rows]
        lines.append("")
    return "\n".join(lines)
