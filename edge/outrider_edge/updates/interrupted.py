"""Whose fault it is when the process ends while a release is tried, and what then: a pure rule over the record and the machine's boots.

Three ends are told apart:

- The limited child ends while the agent lives: the release's fault, and no matter of this rule (`outrider_edge.updates.jobs`).
- The process ends and the machine stays up (the same boot id at the next start). In the self-test it is not the release that ran in
  the process: tried again after a pause, and after `MAX_LOST` such ends held until the machine's next boot. While the release is
  loaded into the process, or answers in it, the third such end is the release's: refused.
- The machine goes down with it (another boot id): a power cut, or a release that takes the whole machine with it. Nothing says which,
  so that it is never refused for it; but it is tried `MAX_LOST` times at most, and then held until it is ordered anew. On probation it
  goes back, unrefused, after `MAX_CUTS` in a row that each left it less than `CALM_S`.
"""

from msgspec.structs import replace

from outrider_edge.updates.record import Record

MAX_LOST = 3
"""Trials that may be lost to the end of the process or the machine before the release is held."""
PAUSES_S = (60.0, 600.0)
"""Run time before the second trial, and before the third."""
MAX_CRASHES = 3
"""Ends of the process, the machine staying up, while a release was loaded: then it is held to be the cause."""
MAX_CUTS = 5
"""Ends of the machine in a row within a probation before the release goes back."""
CALM_S = 600.0
"""Run time since a start after which what went before is no row of cuts any more."""


def lost(record: Record, boot: str) -> Record:
    """A trial was lost: back to where it waits, for a pause, for the machine's next boot, or for whoever orders it anew.

    Args:
        record: with the boot in which the trial was begun.
        boot: the machine's boot now.
    """
    count = record.lost + 1
    held_in = boot if count == MAX_LOST and survived(record, boot) else ""
    return replace(record, state="staged", tries=0, lost=count, held_in=held_in)


def survived(record: Record, boot: str) -> bool:
    """Whether the machine has stayed up since the last start of the process."""
    return record.boot == boot


def pause(record: Record, pauses_s: tuple[float, float] = PAUSES_S) -> str:
    """Why a release of which trials were lost is not tried now, in a sentence; '' when nothing of that kind is in the way."""
    if not record.lost:
        return ""
    ended = f"the process or the machine has ended {record.lost} times while it was tried"
    if record.lost < MAX_LOST:
        left_s = pauses_s[record.lost - 1] - record.spent_s
        return f"{ended}: again in {left_s:.0f} s" if left_s > 0 else ""
    if not record.held_in:
        return f"{ended}: held until it is ordered again"
    if record.held_in == record.boot:
        return f"{ended}: held until the machine's next boot, or until it is ordered again"
    return ""


def forgiven(record: Record) -> Record:
    """Whoever orders it again has it tried again."""
    return replace(record, lost=0, crashes=0, held_in="")
