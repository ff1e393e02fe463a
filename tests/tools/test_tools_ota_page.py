"""docs/ota.md says what the tables and the code say.

To write its generated parts anew: OUTRIDER_WRITE_GOLDEN=1 pytest tests/tools/test_tools_ota_page.py
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outrider.cli import app
from outrider.ota.checklist import CHECKLIST
from outrider_cloud.rollout import bounds, states, verdict
from outrider_edge.updates import diagram
from outrider_edge.updates.rules import PHASES
from outrider_trust.repository import EXPIRY_DAYS, TASK_DAYS
from outrider_wire.rollout import RolloutPlan, Thresholds

PAGE = Path(__file__).parents[2] / "docs/ota.md"
COUNTED = {
    "failures": "could not take it: damaged, failed self-test, no room",
    "rollbacks": "took it and went back by themselves",
    "alarms": "whose audits have broken the new certificate's promise",
    "silence": "not heard of for `--silent-after` since they began",
    "escalation": "how much more they escalate, against devices that have not begun",
}


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace(" --- ", "---")


def _lives() -> str:
    days = {**EXPIRY_DAYS, "a task, its automatic role": TASK_DAYS}
    whose = {
        "root": "two root keys: `outrider ota keys renew root`",
        "targets": "the targets key: `outrider ota keys renew targets`",
        "snapshot": "the cloud, at half of it (`[trust] snapshot_days`)",
        "timestamp": "the cloud, at half of it (`[trust] timestamp_days`): a fleet may sleep for a weekend",
        "a task, its automatic role": "its key, with every publication and plan; else `outrider ota keys renew TASK`",
    }
    return _table(("role", "lives", "renewed by"), [(role, f"{days[role]:g} d", whose[role]) for role in days])


def _thresholds() -> str:
    tolerated = Thresholds()
    rows = [(f"`--max-{name}`", f"{getattr(tolerated, name):.0%}", what) for name, what in COUNTED.items()]
    return _table(("", "tolerated", "devices that"), rows)


def _detectable() -> str:
    plain = RolloutPlan(rollout="any", releases=[], groups=[], salt="", start_ms=0, expires_ms=1)
    limits, alpha = plain.thresholds, verdict.alpha(plain)
    rows: list[tuple[str, ...]] = []
    for n in (3, 10, 30, 100, 300, 1000):
        halted = bounds.halted_above(n, limits.failures, alpha=alpha, devices=limits.devices, power=limits.confidence)
        least = bounds.least_bad(n, limits.failures, alpha=alpha, devices=limits.devices)
        rows.append(
            (
                str(n),
                f"{bounds.ruled_out(n, limits.confidence):.1%}",
                f"{least} devices" if least is not None else "never",
                f"{halted:.0%}" if halted is not None else "–",
            )
        )
    return _table(
        ("devices", "no failure rules out rates above", "halted by failures of", "halted almost surely from a rate of"),
        rows,
    )


def _rollouts() -> str:
    return "\n".join(
        [
            _table(("a rollout is", "which means", "you may"), states.table()),
            _table(("a device is", "which means"), list(states.MEMBERS.items())),
        ]
    )


MADE: dict[str, Callable[[], str]] = {
    "outrider_trust.repository": _lives,
    "outrider_wire.rollout": _thresholds,
    "outrider_cloud.rollout.bounds": _detectable,
    "outrider_cloud.rollout.states": _rollouts,
    "outrider_edge.updates.diagram": lambda: f"```mermaid\n{diagram.diagram().rstrip()}\n```\n\n{diagram.table()}",
    "outrider.ota.checklist": lambda: f"```text\n{CHECKLIST.rstrip()}\n```\n",
}


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- from {re.escape(name)} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _anew(name: str, found: re.Match[str]) -> str:
    return found[1] + MADE[name]() + found[3]


@pytest.fixture(scope="module")
def page() -> str:
    text = PAGE.read_text()
    if os.environ.get("OUTRIDER_WRITE_GOLDEN"):
        for name in MADE:
            text = _between(name).sub(partial(_anew, name), text)
        PAGE.write_text(text)
    return text


@pytest.mark.parametrize("name", MADE)
def test_a_generated_part_is_what_its_table_says(page: str, name: str) -> None:
    found = _between(name).search(page)
    assert found is not None
    assert found[2] == MADE[name]()


def test_the_diagram_has_every_state_and_a_way_out_of_each() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): .+$", diagram.diagram(), re.MULTILINE)
    assert {start for start, _ in drawn} == set(PHASES) == {end for _, end in drawn}


def test_every_command_and_flag_that_it_names_is_there(page: str) -> None:
    lines = re.findall(r"`(outrider [^`]+)`", page) + re.findall(r"^(outrider .+?)(?:  #.*)?$", page, re.MULTILINE)
    named: set[tuple[str, ...]] = set()
    for line in lines:
        words = line.split()[1:]
        path: list[str] = []
        for word in words[:3]:
            if re.fullmatch(r"[a-z][a-z-]*", word) and CliRunner().invoke(app, [*path, word, "--help"]).exit_code == 0:
                path.append(word)
            else:
                break
        assert len(path) >= 2, line
        shown = CliRunner().invoke(app, [*path, "--help"]).stdout
        assert not [flag for flag in words if flag.startswith("--") and flag not in shown], line
        named.add(tuple(path))
    for command in ("publish", "rollout", "wait", "rollback", "stop", "status", "export", "mend"):
        assert ("ota", command) in named


def test_every_link_leads_to_a_page(page: str) -> None:
    assert all((PAGE.parent / link).is_file() for link in re.findall(r"\]\(([a-z-]+\.md)\)", page))
