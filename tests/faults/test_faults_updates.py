"""A device that is killed again and again while it carries out an order: at every start it answers, and it comes to the end."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.sim.power.lives import LIVES
from outrider.sim.power.update_lives import TASKS, check_together
from outrider_edge.updates.ledger import LedgerFile

KILLS = 6
STATED = {"load_crash", "crash_loop", "companion", "live_failure"}
"""Why a device that is killed at the worst moments, thrice while the release is in its process, may refuse a good one."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["obey", "recoil"])
def test_killed_at_any_moment_it_answers_and_ends_as_a_whole_with_a_stated_reason(tmp_path: Path, name: str) -> None:
    luck, folder, work = random.Random(3), tmp_path / "disk", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    LIVES[name].prepare(work)
    kills = 0
    for _ in range(KILLS + 1):
        command = [sys.executable, "-m", "outrider.sim.power.lives", name, str(folder), str(work)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(luck.uniform(1.0, 5.0) if kills < KILLS else 120.0)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        assert not check_together(folder, _said(folder), work)
    assert process.returncode == 0 and kills
    assert not check_together(folder, _said(folder), work)
    if "held" in _said(
        folder
    ):  # killed three times in its self-test: refused by nobody, and tried again after the next boot
        assert not LedgerFile(folder / "updates").task(TASKS[0]).refused
        return
    ends = LedgerFile(folder / "updates").now.ends
    assert {end.task for end in ends} == set(TASKS)
    changed = {end.outcome == "committed" for end in ends}
    assert (changed == {True} and name == "obey") or (changed == {False} and {end.code for end in ends} <= STATED)


def _said(folder: Path) -> list[str]:
    file = folder / ".said"
    return file.read_text().splitlines() if file.exists() else []
