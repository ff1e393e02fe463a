"""What fuzzing or the table of attacks once found stays fixed, and every target takes its seeds and the edges of its input.

Fuzzing itself takes minutes: ``python tests/fuzz/run.py --corpus DIR``.
"""

from pathlib import Path

import pytest
from fuzz_targets import EDGES, REGRESSIONS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds_and_edges_without_a_finding(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for data in (*seeds, *EDGES):
        target.run(data)


def test_no_regression_is_left_without_a_target() -> None:
    assert {folder.name for folder in REGRESSIONS.iterdir()} <= TARGETS.keys()


@pytest.mark.parametrize(
    "place", sorted(REGRESSIONS.glob("*/*")), ids=lambda place: f"{place.parent.name}/{place.name}"
)
def test_what_was_once_found_stays_fixed(place: Path) -> None:
    TARGETS[place.parent.name].run(place.read_bytes())
