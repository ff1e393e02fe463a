"""Checks of a device's sources: do they fit their tasks, is there what reads them, are they where they should be. Opens no camera."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from outrider.doctor_findings import Finding, Level, Subject
from outrider.extras import how_to_install
from outrider_wire.errors import OutriderError


def sources(subject: Subject) -> Iterator[Finding]:
    """Every source of the configuration."""
    from outrider.settings_files import read_task
    from outrider_edge.sources.fitting import fit

    if subject.edge is None or not subject.edge.sources:
        return
    tasks = {}
    for entry in subject.edge.tasks:
        try:
            task = read_task(Path(entry.file))
        except OutriderError:  # said by the check of the tasks
            return
        tasks[task.name] = task
    for settings in subject.edge.sources:
        try:
            fitted = fit(settings, tasks)
        except OutriderError as error:
            yield Finding(check="sources", level="bad", what=error.what, fix=error.fix)
            continue
        what = f"{settings.name}: {settings.url} gives {fitted.part.name} of {fitted.task.name}"
        if lack := _lack(settings.address.kind, settings.address.place):
            yield Finding(check="sources", level=lack[0], what=f"{what}, but {lack[1]}", fix=lack[2])
        else:
            yield Finding(check="sources", level="ok", what=what)


def _lack(kind: str, place: str) -> tuple[Level, str, str] | None:
    """Level, what is not there, and what to do; None: all is."""
    there = Path(place)
    lacks: tuple[tuple[bool, Level, str, str], ...] = (
        (
            kind in ("camera", "file", "stream") and find_spec("av") is None,
            "bad",
            "PyAV, which reads it, is not installed",
            how_to_install("video"),
        ),
        (
            kind == "csi" and shutil.which("gst-launch-1.0") is None,
            "bad",
            "there is no gst-launch-1.0, which reads it",
            "install the board's GStreamer tools",
        ),
        (
            kind == "camera" and not there.exists(),
            "warning",
            "no such device is there now",
            "plug it in, or name another: ls /dev/video*",
        ),
        (
            kind == "camera" and not os.access(there, os.R_OK | os.W_OK),
            "bad",
            "this user may not open it",
            "add the agent's user to the group video",
        ),
        (kind == "file" and not there.is_file(), "warning", "no such file is there now", "name another"),
        (kind == "dir" and not there.is_dir(), "bad", "no such folder is there", "make it, or name another"),
    )
    return next(((level, what, fix) for so, level, what, fix in lacks if so), None)
