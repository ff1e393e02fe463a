"""What ``outrider doctor`` says of a device's outbox: its bounds, how full it is, what was damaged, which tasks gave durability up."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from outrider.doctor_findings import Finding, Level
from outrider_wire.errors import OutriderError

NEARLY_FULL = 0.8


def examine_outbox(config: Any) -> Iterator[Finding]:
    """The outbox of an `outrider_edge.config.EdgeConfig`, read from its file; nothing is changed."""
    folder = config.folder / "outbox"
    yield _fill(folder, config.outbox.bounds)
    yield from _damaged(folder)
    yield from _in_memory(config)


def _fill(folder: Path, bounds: Any) -> Finding:
    from outrider_edge.outbox.clock import run_clock
    from outrider_edge.outbox.looking import open_read_only

    most = (
        f"at most {bounds.max_count:,} inputs, {bounds.max_bytes / 1e6:,.0f} MB, {bounds.max_age_s / 86_400:g} days, "
        f"and {bounds.min_free_bytes / 1e6:,.0f} MB of the disk stay free"
    )
    if not (folder / "outbox.db").exists():
        return Finding(check="outbox", level="ok", what=f"empty; {most}")
    try:
        connection, rows = open_read_only(folder / "outbox.db", run_clock())
        with closing(connection):
            totals = rows.page(limit=1).totals
    except OutriderError as error:
        return Finding(check="outbox", level="warning", what=error.what, fix=error.fix)
    count, size = sum(each.count for each in totals), sum(each.bytes for each in totals)
    full = max(count / bounds.max_count, size / bounds.max_bytes)
    level: Level = "ok" if full < NEARLY_FULL else "warning"
    oldest_s = max((each.oldest_s for each in totals), default=0.0)
    what = f"{count:,} inputs wait ({size / 1e6:,.1f} MB, the oldest for {oldest_s / 3600:,.1f} h): {full:.0%} full; {most}"
    return Finding(
        check="outbox", level=level, what=what, fix="" if level == "ok" else "reach the broker, or raise [outbox]"
    )


def _damaged(folder: Path) -> Iterator[Finding]:
    from outrider_edge.outbox.mending import damaged_files

    if not folder.is_dir():
        return
    for path in damaged_files(folder):
        yield Finding(
            check="outbox",
            level="warning",
            what=f"a damaged file was put aside: {path} ({path.stat().st_size / 1e6:,.1f} MB)",
            fix="check the disk (dmesg, smartctl); what could be read goes on, so that it may be removed",
        )


def _in_memory(config: Any) -> Iterator[Finding]:
    from outrider_edge.config import read_task

    for entry in config.tasks:
        try:
            task = read_task(entry)
        except OutriderError:
            continue  # said by the check of the tasks
        if task.policy.durability == "memory":
            yield Finding(
                check="durability",
                level="warning",
                what=f'{task.name} has durability = "memory": a restart loses what waits for the cloud, audits excepted',
                fix='as chosen; set [policy] durability = "disk" to keep it',
            )
