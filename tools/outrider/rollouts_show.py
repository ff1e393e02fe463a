"""Rollouts on a screen: one, all, or one that is watched until it is over. Asks through `outrider.rollouts`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from outrider import rollouts
from outrider.output import PIPED_WIDTH, Screen
from outrider.releases import DeviceRow

if TYPE_CHECKING:
    from rich.console import RenderableType

STAGES = ("stage", "group", "belong to it", "must finish", "devices")
FIGURES = ("threshold", "found", "95 % lies in", "tolerated", "says")


def fleet(screen: Screen, rows: Sequence[DeviceRow], standings: rollouts.Standings) -> None:
    """What runs on every device, every rollout, and the stop that stands."""
    empty = "" if rows else "no device was ever heard of; start one with: outrider edge run"
    said = {"devices": rows, "rollouts": standings.rollouts, "stop": standings.stop}
    screen.result(said, "\n".join(filter(None, (standings.stopped, empty))))
    if standings.rollouts:
        screen.table(
            ("rollout", "state", "stage", "devices", "what"),
            [
                (
                    each.rollout,
                    each.state + (" (automatic)" if each.automatic else ""),
                    f"{each.stage + 1}/{each.stages} {each.group}",
                    rollouts.counted(each.members) or "–",
                    each.what or each.means,
                )
                for each in standings.rollouts
            ],
        )
    if rows:
        screen.table(
            ("device", "online", "task", "running", "version", "should run", "state", "reason"),
            [
                (
                    row.device,
                    "yes" if row.online else "no",
                    row.task or "–",
                    row.running[:12] or "–",
                    row.version or "–",
                    "the same" if row.current else row.desired[:12],
                    row.state or "–",
                    (row.refused.reason if row.refused else "") or row.reason or row.held,
                )
                for row in rows
            ],
        )
    for device, refused in {row.device: row.refused for row in rows if row.refused}.items():
        screen.note(f"{device} is not believed: {refused.what}. {refused.fix}")
    if unsigned := {row.device for row in rows if row.unsigned}:
        screen.note(
            f"{len(unsigned)} device(s) do not sign their figures, which speak neither for a release nor against it: update their agents"
        )


def show(screen: Screen, standing: rollouts.Standing) -> None:
    """One rollout."""
    screen.result(standing, rollouts.headline(standing))
    screen.table(STAGES, rollouts.standing_rows(standing))
    screen.table(FIGURES, rollouts.figure_rows(standing))
    if standing.blockers:
        screen.note(f"not ordered: {rollouts.counted(standing.blockers)}")
    if standing.may:
        screen.note(f"you may: {', '.join(f'outrider ota {act}' for act in standing.may)}")


def watch(screen: Screen, api: rollouts.RolloutApi, name: str, *, every_s: float) -> None:
    """Shows a rollout anew until it is over: a live table at a terminal, else a line, or with JSON a document, a change."""
    if screen.json or not sys.stdout.isatty():
        last = ""
        for standing in rollouts.changes(api, name, every_s=every_s, within_s=None):
            line = f"{rollouts.headline(standing)} [{rollouts.counted(standing.members)}]"
            if line != last:
                screen.result(standing, line)
                last = line
            if _ended(standing):
                return
    from rich.live import Live

    with Live(refresh_per_second=4, transient=False) as live:
        for standing in rollouts.changes(api, name, every_s=every_s, within_s=None):
            live.update(picture(standing))
            if _ended(standing):
                return


def picture(standing: rollouts.Standing) -> "RenderableType":
    """The live table."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(rollouts.headline(standing), style="bold")]
    parts.append(_table(STAGES, rollouts.standing_rows(standing)))
    parts.append(_table(FIGURES, rollouts.figure_rows(standing)))
    parts += [Text(f"{event.state}: {event.what}", style="dim") for event in standing.events[-5:]]
    return Group(*parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "RenderableType":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for row in rows:
        table.add_row(*row)
    return table


def _ended(standing: rollouts.Standing) -> bool:
    return standing.state in rollouts.ENDED_WELL | rollouts.ENDED_ILL
