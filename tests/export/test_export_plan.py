"""What labels can be expected to certify: the simulation gives back what was measured, and behaves as labels do."""

import numpy as np
import pytest

from outrider_export.plan import DRAWS, around, at_best, expected

EARLIER = [percent / 100 for percent in range(15, 101, 5)]
"""The ladder that the figures of the design were measured with."""


@pytest.mark.parametrize(
    ("n", "coverage", "nothing"), [(400, 0.46, 0.11), (2_000, 0.64, 0.0)], ids=["400 rows", "2,000 rows"]
)
def test_the_figures_that_were_measured_come_out(n: int, coverage: float, nothing: float) -> None:
    found = expected(n, risk=0.05, delta=0.1, accuracy=0.88, coverages=EARLIER, start=0, draws=1000)
    assert found.coverage == pytest.approx(coverage, abs=0.03)
    assert found.nothing == pytest.approx(nothing, abs=0.05)


def test_starting_where_errors_are_survived_certifies_more_often_than_the_earlier_ladder() -> None:
    now = expected(400, risk=0.05, delta=0.1, accuracy=0.88, draws=1000)
    before = expected(400, risk=0.05, delta=0.1, accuracy=0.88, coverages=EARLIER, start=0, draws=1000)
    assert now.coverage > before.coverage
    assert now.nothing < before.nothing


def test_more_labels_and_better_models_keep_more_up_to_the_model_s_own_limit() -> None:
    found = around(300, risk=0.05, delta=0.05, accuracy=0.88)
    assert [each.n for each in found] == [150, 300, 600, 1200]
    assert sorted(each.coverage for each in found) == [each.coverage for each in found]
    assert found[-1].coverage < at_best(risk=0.05, accuracy=0.88)
    assert at_best(risk=0.05, accuracy=0.96) == 1.0
    assert expected(300, risk=0.05, delta=0.05, accuracy=0.93).coverage > found[1].coverage


def test_too_few_rows_certify_nothing_in_every_draw() -> None:
    found = expected(58, risk=0.05, delta=0.05, accuracy=0.99)
    assert (found.coverage, found.nothing) == (0.0, 1.0)


def test_rows_that_hang_together_count_for_less_than_as_many_alone() -> None:
    alone = expected(800, risk=0.05, delta=0.05, accuracy=0.8)
    together = expected(800, risk=0.05, delta=0.05, accuracy=0.8, rows_of_a_group=4)
    assert together.groups == 200
    assert together.coverage < alone.coverage


def test_the_same_seed_gives_the_same_figures_and_progress_reaches_the_end() -> None:
    told: list[float] = []
    first = expected(200, risk=0.05, delta=0.1, accuracy=0.9, seed=3, told=told.append)
    assert first == expected(200, risk=0.05, delta=0.1, accuracy=0.9, seed=3)
    assert first != expected(200, risk=0.05, delta=0.1, accuracy=0.9, seed=4)
    assert (len(told), told[-1]) == (DRAWS, 1.0)
    assert np.all(np.diff(told) > 0)
