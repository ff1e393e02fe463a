"""What is claimed of the figures of a rollout, held against simulation; each with a rule that breaks the claim and is found out."""

import math

import numpy as np
import pytest
from scipy import special, stats

from outrider_cloud.rollout import bounds

RUNS = 4000
DEVICES = 200
ALPHA, LIMIT, FEWEST = 0.05, 0.05, 3


def boundary(n_most: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """For each number of devices, the fewest faults that halt."""
    found = [bounds.least_bad(n, LIMIT, alpha=ALPHA, devices=FEWEST) for n in range(1, n_most + 1)]
    return np.array([n_most + 1 if each is None else each for each in found])


def faults(rate: float, seed: int) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """(runs, devices) how many of the first devices had the fault."""
    return np.cumsum(np.random.default_rng(seed).random((RUNS, DEVICES)) < rate, axis=1)


def slack(rate: float) -> float:
    """Three standard deviations of a share of the runs."""
    return 3 * math.sqrt(rate * (1 - rate) / RUNS)


def test_a_release_at_the_limit_is_halted_no_more_often_than_stated_however_often_one_looks() -> None:
    halted = (faults(LIMIT, 1) >= boundary(DEVICES)).any(axis=1).mean()
    assert 0 < halted <= ALPHA + slack(ALPHA)


def test_a_bound_of_one_look_would_break_that_promise() -> None:
    """The negative control: Clopper and Pearson's bound, asked at every device."""
    counts = faults(LIMIT, 1)
    least = np.array([stats.binom.isf(ALPHA, n, LIMIT) + 1 for n in range(1, DEVICES + 1)])
    assert ((counts >= least) & (counts >= FEWEST)).any(axis=1).mean() > 2 * (ALPHA + slack(ALPHA))


@pytest.mark.parametrize("n", [5, 20, 100, DEVICES])
def test_a_rate_that_is_said_to_be_halted_is(n: int) -> None:
    rate = bounds.halted_above(n, LIMIT, alpha=ALPHA, devices=FEWEST, power=0.9)
    assert rate is not None
    halted = (faults(rate, n)[:, :n] >= boundary(n)).any(axis=1).mean()
    assert halted >= 0.9 - slack(0.9)
    below = (faults(rate / 2, n)[:, :n] >= boundary(n)).any(axis=1).mean()
    assert below < 0.9 - slack(0.9), "half that rate would be halted as surely: the claim says too little"


def test_three_devices_rule_out_only_rates_above_63_percent() -> None:
    assert round(bounds.ruled_out(3, 0.95), 2) == 0.63
    assert round(bounds.ruled_out(100, 0.95), 3) == 0.030, "the rule of three"
    assert bounds.ruled_out(0, 0.95) == 1.0


@pytest.mark.parametrize(("bad", "n"), [(0, 7), (1, 7), (3, 40), (40, 40), (12, 300)])
def test_bounds_are_those_of_the_beta_distribution(bad: int, n: int) -> None:
    lower = stats.beta.ppf(0.05, bad, n - bad + 1) if bad else 0.0
    upper = stats.beta.ppf(0.95, bad + 1, n - bad) if bad < n else 1.0
    assert bounds.lower_rate(bad, n, 0.95) == pytest.approx(lower, abs=1e-9)
    assert bounds.upper_rate(bad, n, 0.95) == pytest.approx(upper, abs=1e-9)


@pytest.mark.parametrize(
    ("bad", "n", "rate"), [(1, 1, 0.02), (3, 3, 0.02), (5, 60, 0.1), (40, 400, 0.05), (1, 900, 0.3)]
)
def test_evidence_is_the_mean_likelihood_ratio_over_doublings_of_the_rate(bad: int, n: int, rate: float) -> None:
    p = np.exp(np.linspace(math.log(rate), 0, 400_001)[:-1] - math.log(rate) / 800_000)
    log = bad * np.log(p / rate) + (n - bad) * np.log((1 - p) / (1 - rate))
    assert bounds.evidence(bad, n, rate) == pytest.approx(float(np.exp(log).mean()), rel=1e-4)


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_it_needs_no_more_faults_than_a_weight_of_all_rates_alike_and_from_twenty_devices_on_fewer(rate: float) -> None:
    def alike(bad: int, n: int) -> float:
        """The mean likelihood ratio over all rates above ``rate``, alike."""
        log = special.betaln(bad + 1, n - bad + 1) + stats.beta.logsf(rate, bad + 1, n - bad + 1)
        return math.exp(min(700, log - bad * math.log(rate) - (n - bad + 1) * math.log1p(-rate)))

    fewer = 0
    for n in (3, 5, 10, 15, 20, 30, 50, 100, 200, 300, 1000):
        ours = bounds.least_bad(n, rate, alpha=0.01, devices=FEWEST)
        theirs = next(bad for bad in range(FEWEST, n + 1) if alike(bad, n) >= 100)
        assert ours is not None and ours <= theirs
        fewer += n >= 20 and ours < theirs
    assert fewer >= 2


def test_no_rule_that_keeps_its_promise_finds_more_with_ten_devices() -> None:
    """Ten devices, 2 % tolerated: three faults halt, fewer are no proof even in a single look (and might be one person's devices)."""
    assert bounds.least_bad(10, 0.02, alpha=0.01, devices=FEWEST) == 3
    assert stats.binom.sf(1, 10, 0.02) > 0.01


def test_one_device_or_two_halt_nothing_whatever_they_say() -> None:
    assert not any(bounds.exceeds(bad, n, 0.001, alpha=0.5, devices=3) for bad in (1, 2) for n in range(bad, 50))
    assert bounds.halted_above(2, 0.02, alpha=0.05, devices=3, power=0.95) is None


def test_more_faults_never_speak_less_and_more_devices_never_need_fewer() -> None:
    assert np.all(np.diff([bounds.evidence(bad, 40, LIMIT) for bad in range(41)]) > 0)
    assert np.all(np.diff(boundary(DEVICES)[3:]) >= 0)


def test_nothing_overflows_on_a_large_fleet() -> None:
    assert bounds.exceeds(100_000, 100_000, 1e-6, alpha=1e-9, devices=3)
    assert not bounds.exceeds(3, 1_000_000, 0.02, alpha=0.05, devices=3)


# --- shares of two groups of devices


def shares(rng: np.random.Generator, n: int, mean: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Escalation shares of devices that differ among themselves: 200 inputs on each."""
    return rng.binomial(200, np.clip(rng.beta(20 * mean, 20 * (1 - mean), n), 0, 1)) / 200


@pytest.mark.parametrize(("n", "m"), [(5, 10), (9, 15), (40, 120), pytest.param(20, 30, marks=pytest.mark.slow)])
def test_equal_groups_are_told_apart_no_more_often_than_stated(n: int, m: int) -> None:
    rng, level, runs = np.random.default_rng(7), 0.05, 1500
    found = sum(bounds.raised(shares(rng, n, 0.2), shares(rng, m, 0.2), 0.0) <= level for _ in range(runs)) / runs
    assert 0 < found <= level + 3 * math.sqrt(level * (1 - level) / runs)


def test_a_test_of_inputs_in_place_of_devices_would_break_that_promise() -> None:
    """The negative control: two proportions over all inputs, as if those of one device were independent."""
    rng, runs, found = np.random.default_rng(7), 400, 0
    for _ in range(runs):
        treated, control = shares(rng, 20, 0.2), shares(rng, 30, 0.2)
        pooled = (treated.sum() + control.sum()) / 50
        spread = math.sqrt(pooled * (1 - pooled) * (1 / (20 * 200) + 1 / (30 * 200)))
        found += (treated.mean() - control.mean()) / spread > stats.norm.isf(0.05)
    assert found / runs > 0.2


def test_a_rise_beyond_the_margin_is_found_and_one_within_it_is_not() -> None:
    rng = np.random.default_rng(3)
    control = shares(rng, 40, 0.2)
    assert bounds.raised(shares(rng, 20, 0.5), control, 0.05) < 1e-4
    assert bounds.raised(shares(rng, 20, 0.22), control, 0.05) > 0.05


def test_ranks_agree_with_an_independent_reckoning() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.3, 1, 9), rng.normal(0, 1, 14)
    exact = stats.mannwhitneyu(a, b, alternative="greater", method="exact").pvalue
    assert bounds.raised(a, b, 0.0) == pytest.approx(exact, abs=1e-12)
    a, b = np.round(rng.normal(0.3, 1, 60), 1), np.round(rng.normal(0, 1, 90), 1)
    normal = stats.mannwhitneyu(a, b, alternative="greater", method="asymptotic").pvalue
    assert bounds.raised(a, b, 0.0) == pytest.approx(normal, rel=1e-9)


def test_one_device_that_says_what_it_likes_moves_little() -> None:
    rng = np.random.default_rng(11)
    control, treated = shares(rng, 40, 0.2), shares(rng, 19, 0.2)
    honest, loud = bounds.raised([*treated, 0.2], control, 0.05), bounds.raised([*treated, 1.0], control, 0.05)
    assert honest > 0.05 and loud > 0.05


@pytest.mark.parametrize(("treated", "control"), [([], [0.1]), ([0.1], []), ([0.2] * 40, [0.2] * 40)])
def test_nothing_is_found_where_there_is_nothing_to_find(treated: list[float], control: list[float]) -> None:
    assert bounds.raised(treated, control, 0.0) >= 0.4
