"""A device that is killed again and again while it carries out an order: at every start it answers, and it comes to the end."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.sim.power.lives import LIVES
from outrider.sim.power.update_lives import TASKS, check_together

MOST = 40


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "outcomes"), [("obey", {"committed"}), ("recoil", {"rolled_back", "companion"})])
def test_killed_at_any_moment_it_answers_and_ends_where_it_must(tmp_path: Path, name: str, outcomes: set[str]) -> None:
    luck, folder, work = random.Random(3), tmp_path / "disk", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    LIVES[name].prepare(work)
    kills = 0
    for _ in range(MOST):
        command = [sys.executable, "-m", "outrider.sim.power.lives", name, str(folder), str(work)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(luck.uniform(1.0, 4.0))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        assert not check_together(folder, _said(folder), work)
    assert process.returncode == 0 and kills
    said = _said(folder)
    assert not check_together(folder, said, work)
    assert {line.split()[2] for line in said if line.startswith("ended ")} <= outcomes
    assert {line.split()[1] for line in said if line.startswith("ended ")} == set(TASKS)


def _said(folder: Path) -> list[str]:
    file = folder / ".said"
    return file.read_text().splitlines() if file.exists() else []
