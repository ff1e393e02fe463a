"""Calibration and certificate: one row a group, once, and a sentence that says what is missing."""

from collections.abc import Callable

import numpy as np
import pytest

from outrider_engine.model import Model, load_model
from outrider_export.build import BuildReport
from outrider_export.certify import Behind, Certified, behind_model, calibrate_and_certify
from outrider_export.data import Table
from outrider_export.promises import Promise, forecast, rows_needed
from outrider_wire.certificate import DEFAULT_COVERAGES, LIKELY_START, first_tested, items_needed
from outrider_wire.errors import RuleRefusalError
from outrider_wire.groups import GROUP_ROWS
from outrider_wire.scores import SCORES

Squares = Callable[[int, int], Table]


@pytest.fixture(scope="module")
def model(built: BuildReport) -> Model:
    return load_model(built.bundle)


def certified(model: Model, tuning: Table, certification: Table | None, risk: float = 0.1) -> Certified:
    return calibrate_and_certify(
        model=model,
        tuning=tuning,
        certification=certification,
        promise=Promise(risk=risk, delta=0.1, label_source="large_model"),
        key="k",
    )


def relabelled(table: Table, labels: np.ndarray) -> Table:
    return Table(values=table.values, index=table.index, labels=labels, groups=table.groups)


def test_too_few_rows_certify_nothing_and_the_sentence_says_how_many_would(model: Model, squares: Squares) -> None:
    found = certified(model, squares(60, 2), squares(12, 3))

    assert found.certificate is None
    assert found.acceptance.threshold is None
    assert found.acceptance.support_threshold is not None
    assert f"takes {items_needed(0.1, 0.1)} accepted rows" in found.sentences[0]
    assert str(rows_needed(0.1, 0.1)) in found.sentences[0]
    assert "everything escalates" in found.sentences[0]


def test_a_model_that_is_wrong_too_often_is_not_certified(model: Model, squares: Squares) -> None:
    rows = squares(200, 3)
    found = certified(model, squares(60, 2), relabelled(rows, (rows.labels + 1) % 3))

    assert found.certificate is None
    assert "were wrong" in found.sentences[0]


def grouped(table: Table, name: str, groups: int) -> Table:
    """The same rows, that many groups of them."""
    names = [f"{name}-{row % groups}" for row in range(len(table))]
    return Table(values=table.values, index=table.index, labels=table.labels, groups=names)


def test_fifteen_groups_certify_nothing_however_many_rows_they_have(model: Model, squares: Squares) -> None:
    found = certified(model, grouped(squares(120, 2), "t", 30), grouped(squares(300, 3), "c", 15))

    assert (found.outcomes[""].groups, found.outcomes[""].n) == (15, 15 * GROUP_ROWS)
    assert found.certificate is None
    assert "cannot certify" in found.sentences[0]


def test_whole_groups_certify_where_they_have_several_rows(model: Model, squares: Squares) -> None:
    found = certified(model, grouped(squares(120, 2), "t", 30), grouped(squares(400, 3), "c", 100))

    assert found.certificate is not None
    said = found.certificate
    assert (said.method, said.groups, said.n) == ("fixed-sequence-groups", 100, 400)


def test_the_tuning_groups_say_how_many_rows_of_a_group_certify(model: Model, squares: Squares) -> None:
    """Single tuning rows, certification rows in fours: one of each certifies, whatever the draw looks like."""
    found = certified(model, squares(60, 2), grouped(squares(400, 3), "c", 100))

    assert found.certificate is not None
    assert (found.certificate.method, found.certificate.n) == ("fixed-sequence", 100)


def test_no_gap_is_claimed_where_a_joining_strategy_was_not_tested_on_what_escalates(
    model: Model, squares: Squares
) -> None:
    """A strategy that spoils every answer that comes back: fine where it is tested, and unseen where nothing was."""
    behind = Behind(
        name="spoils", ask=behind_model(model).ask, strategy="soft-prune", combine=lambda large, _: 1 - large
    )
    promise = Promise(risk=0.1, delta=0.1, gap=0.05)
    found = calibrate_and_certify(
        model=model, tuning=squares(60, 2), certification=squares(300, 3), promise=promise, key="k", behind=behind
    )

    assert found.certificate is None or found.certificate.system is None or found.certificate.coverage == 1.0


def test_the_score_with_the_least_area_is_the_rule_s(model: Model, squares: Squares) -> None:
    found = certified(model, squares(150, 2), None)

    assert set(found.scores) == set(SCORES)
    assert found.acceptance.score == min(found.scores, key=lambda name: found.scores[name])


def test_a_gap_to_the_large_model_is_certified_with_the_risk(model: Model, squares: Squares) -> None:
    behind = Behind(name="itself", ask=behind_model(model).ask)
    promise = Promise(risk=0.1, delta=0.1, gap=0.05)
    found = calibrate_and_certify(
        model=model, tuning=squares(60, 2), certification=squares(300, 3), promise=promise, key="k", behind=behind
    )

    assert found.certificate is not None
    assert found.certificate.system is not None
    assert (found.certificate.system.gap, found.certificate.system.found) == (0.05, 0.0)
    assert found.certificate.large_error is not None
    assert "more often than the large model alone" in found.sentences[1]


def test_a_gap_without_a_large_model_is_refused(model: Model, squares: Squares) -> None:
    with pytest.raises(RuleRefusalError, match="without one"):
        calibrate_and_certify(
            model=model,
            tuning=squares(60, 2),
            certification=squares(60, 3),
            promise=Promise(risk=0.1, delta=0.1, gap=0.05),
            key="k",
        )


def test_rows_without_a_label_are_left_out(model: Model, squares: Squares) -> None:
    rows = squares(200, 3)
    some = relabelled(rows, np.where(np.arange(200) < 120, rows.labels, -1))
    found = certified(model, squares(60, 2), some)

    assert found.certificate is not None
    assert found.certificate.n == 120
    assert found.certificate.label_source == "large_model"
    assert "the large model" in found.sentences[0]


def test_a_group_in_two_roles_is_refused(model: Model, squares: Squares) -> None:
    with pytest.raises(RuleRefusalError) as overlap:
        certified(model, squares(60, 2), squares(60, 2).take(range(5)))
    assert overlap.value.reason == "roles_overlap"


def test_an_input_in_two_roles_is_refused_whatever_its_group_and_table(model: Model, squares: Squares) -> None:
    rows, tuning = squares(200, 3), squares(60, 2)
    values = {"image": [tuning.values["image"][0], *rows.values["image"][1:]]}
    copied = Table(values=values, index=rows.index, labels=rows.labels, groups=rows.groups)
    with pytest.raises(RuleRefusalError, match="1 input"):
        certified(model, tuning, copied)


def test_without_labelled_tuning_rows_there_is_nothing_to_calibrate(model: Model, squares: Squares) -> None:
    rows = squares(40, 2)
    with pytest.raises(RuleRefusalError, match="no labelled rows"):
        certified(model, relabelled(rows, np.full(40, -1)), None)


def test_the_data_digest_knows_the_groups_and_not_their_order(model: Model, squares: Squares) -> None:
    rows = squares(200, 3)
    tuning = squares(60, 2)
    forward, backward = (certified(model, tuning, rows.take(order)) for order in (range(200), range(199, -1, -1)))
    fewer = certified(model, tuning, rows.take(range(199)))

    digests = [found.certificate.data_digest for found in (forward, backward, fewer) if found.certificate]
    assert digests[0] == digests[1] != digests[2]


def test_the_support_false_alarm_rate_is_measured_on_fresh_rows(model: Model, squares: Squares) -> None:
    found = certified(model, squares(300, 2), squares(300, 3))

    assert found.support_false_alarm is not None
    assert found.support_false_alarm <= 0.04


@pytest.mark.parametrize("n", [10, 59, 150, 700, 5000])
def test_the_forecast_promises_what_the_test_allows(n: int) -> None:
    risk = delta = 0.05
    said = forecast(n, risk, delta)
    first = first_tested(DEFAULT_COVERAGES, n, risk, delta)

    if first == len(DEFAULT_COVERAGES):
        assert f"{n} certification rows cannot certify" in said
        assert str(items_needed(risk, delta)) in said
    else:
        kept, allowed = int(DEFAULT_COVERAGES[first] * n), int(said.split("at most ")[2].split()[0])
        assert items_needed(risk, delta, allowed) <= kept < items_needed(risk, delta, allowed + 1)


def test_the_rows_needed_let_the_first_test_survive_five_errors() -> None:
    assert DEFAULT_COVERAGES[first_tested(DEFAULT_COVERAGES, rows_needed(0.05, 0.05), 0.05, 0.05)] == LIKELY_START
    assert rows_needed(0.05, 0.05) == pytest.approx(700, abs=15)
