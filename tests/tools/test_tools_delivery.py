"""docs/delivery.md says what the tables and the code say.

To write its generated parts anew: OUTRIDER_WRITE_GOLDEN=1 pytest tests/tools/test_tools_delivery.py
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from outrider.cli import app
from outrider_cloud import states as cloud_states
from outrider_cloud.intake.admission import Limits
from outrider_cloud.metrics import Metrics as CloudMetrics
from outrider_edge import exposition
from outrider_edge.config import OutboxSettings
from outrider_edge.outbox import states as edge_states
from outrider_wire import reasons

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "delivery.md"


def _mermaid(diagram: str) -> str:
    return f"```mermaid\n{diagram.rstrip()}\n```\n"


def _edge() -> str:
    return f"{_mermaid(edge_states.diagram())}\n{edge_states.tables().rstrip()}\n"


def _cloud() -> str:
    rows = [f"| {' | '.join(row)} |" for row in cloud_states.rows()]
    head = ["| state | what happens | then | durable | the device is told |", "|---|---|---|---|---|"]
    return "\n".join([_mermaid(cloud_states.diagram()), *head, *rows, ""])


MADE: dict[str, Callable[[], str]] = {
    "outrider_edge.outbox.states": _edge,
    "outrider_cloud.states": _cloud,
    "outrider_wire.reasons": lambda: f"{reasons.tables().rstrip()}\n",
}
SETTINGS: dict[str, Any] = {
    "outrider_edge.config.OutboxSettings": OutboxSettings(),
    "outrider_cloud.intake.admission.Limits": Limits(),
}


def _anew(name: str, found: re.Match[str]) -> str:
    return found[1] + MADE[name]() + found[3]


def _between(kind: str, name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {kind} {re.escape(name)} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.fixture(scope="module")
def page() -> str:
    text = PAGE.read_text()
    if os.environ.get("OUTRIDER_WRITE_GOLDEN"):
        for name in MADE:
            text = _between("from", name).sub(partial(_anew, name), text)
        PAGE.write_text(text)
    return text


@pytest.mark.parametrize("name", MADE)
def test_a_generated_part_is_what_its_table_says(page: str, name: str) -> None:
    found = _between("from", name).search(page)
    assert found is not None
    assert found[2] == MADE[name]()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_defaults_are_the_codes_own(page: str, name: str) -> None:
    found = _between("defaults of", name).search(page)
    assert found is not None
    said = dict(re.findall(r"^\| `(\w+)` \| ([\d,.]+) \|", found[2], re.MULTILINE))
    settings = SETTINGS[name]
    assert said == {key: f"{getattr(settings, key):,.0f}" for key in settings.__struct_fields__}


def test_every_metric_that_it_names_is_shown_by_one_side(page: str) -> None:
    known = {family.name.removesuffix("_total") for family in CloudMetrics().registry.collect()}
    shown = known | set(re.findall(r'"(outrider_[a-z_]+)"', Path(exposition.__file__).read_text()))
    named = set(re.findall(r"`(outrider_[a-z_]+)[`{]", page)) - {"outrider_edge", "outrider_cloud", "outrider_wire"}
    assert named
    assert not named - shown


def test_every_command_that_it_names_is_there(page: str) -> None:
    named = {
        tuple(word for word in line.split() if re.fullmatch(r"[a-z-]+", word) and not word.startswith("--"))
        for line in re.findall(r"`outrider ([^`]+)`", page)
    }
    assert ("edge", "outbox", "drop") in named
    for words in named:
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words


def test_every_link_leads_to_a_page(page: str) -> None:
    assert all((DOCS / link).is_file() for link in re.findall(r"\]\(([a-z-]+\.md)\)", page))
