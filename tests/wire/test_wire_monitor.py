"""The risk monitor and the certificate from audits, by simulation, beside the controls that fail."""

import math

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

import factory
from outrider_wire.audit_certificate import certify_from_audits, log_capitals
from outrider_wire.errors import RuleRefusalError
from outrider_wire.manifest import Acceptance, Calibration, Manifest, Outputs, Variant
from outrider_wire.monitor import Form, Monitor, bets, observe, resumed, tolerated_risk

RISK, ALPHA, SEEDS = 0.05, 1e-3, 50
BEFORE, AFTER = 0.01, 0.15


def fed(monitor: Monitor, losses: np.ndarray) -> Monitor:
    for loss in losses.astype(int).tolist():
        monitor = observe(monitor, loss)
    return monitor


def delay(monitor: Monitor, risk: float, rng: np.random.Generator, most: int = 100_000) -> int:
    """Audits from the change to the alarm."""
    for count in range(1, most):
        monitor = observe(monitor, int(rng.random() < risk))
        if monitor.alarmed:
            return count
    return most


def product_delay(clean: int, rng: np.random.Generator, bet: float = 1.0) -> int:
    """The same of the plain product ∏ (1 + b (L − r)): what goes deaf."""
    start = np.log1p(bet * ((rng.random(clean) < BEFORE) - RISK)).sum()
    path = start + np.cumsum(np.log1p(bet * ((rng.random(60_000) < AFTER) - RISK)))
    return int(np.argmax(path >= math.log(1 / ALPHA))) + 1


@pytest.fixture(scope="module")
def clean_monitors() -> dict[int, list[Monitor]]:
    """After that many clean audits, a monitor a seed."""
    found: dict[int, list[Monitor]] = {0: [], 2_000: [], 20_000: []}
    for seed in range(SEEDS):
        losses = np.random.default_rng(seed).random(20_000) < BEFORE
        early = fed(Monitor(risk=RISK, alpha=ALPHA), losses[:2_000])
        found[0].append(Monitor(risk=RISK, alpha=ALPHA))
        found[2_000].append(early)
        found[20_000].append(fed(early, losses[2_000:]))
    return found


def test_the_alarm_comes_as_soon_after_twenty_thousand_clean_audits_as_at_first(
    clean_monitors: dict[int, list[Monitor]],
) -> None:
    medians = {
        clean: float(np.median([delay(m, AFTER, np.random.default_rng(1_000 + k)) for k, m in enumerate(monitors)]))
        for clean, monitors in clean_monitors.items()
    }
    assert medians[0] < 120
    assert medians[2_000] <= 1.3 * medians[0]
    assert medians[20_000] <= 1.3 * medians[0]


def test_the_plain_product_goes_deaf() -> None:
    medians = [
        np.median([product_delay(clean, np.random.default_rng(seed)) for seed in range(SEEDS)]) for clean in (0, 2_000)
    ]
    assert medians[0] < 200
    assert medians[1] > 5 * medians[0]


def test_while_the_risk_is_well_within_the_promise_there_is_hardly_an_alarm(
    clean_monitors: dict[int, list[Monitor]],
) -> None:
    assert not any(monitor.alarmed for monitor in clean_monitors[20_000])


@pytest.mark.parametrize("form", ["shiryaev-roberts", "cusum"])
def test_at_exactly_the_promised_risk_false_alarms_are_as_far_apart_as_promised(form: Form) -> None:
    rng = np.random.default_rng(5)
    lengths = [delay(Monitor(risk=RISK, alpha=0.01, form=form), RISK, rng) for _ in range(200)]
    assert np.mean(lengths) + 2 * np.std(lengths) / math.sqrt(200) >= 100
    too_risky = [delay(Monitor(risk=RISK, alpha=0.01, form=form), 4 * RISK, rng) for _ in range(50)]
    assert np.mean(too_risky) < 100  # the control: the same measure does find a broken promise


@pytest.mark.parametrize("risk", [0.001, 0.05, 0.5, 0.95])
def test_the_evidence_of_one_audit_is_an_e_value(risk: float) -> None:
    for bet in bets(risk):
        wrong, right = 1 + bet * (1 - risk), 1 - bet * risk
        assert right >= 0
        assert risk * wrong + (1 - risk) * right == pytest.approx(1.0)


def test_a_monitor_goes_on_from_its_saved_state_as_if_nothing_had_happened() -> None:
    losses = np.random.default_rng(3).random(300) < 0.08
    saved = msgspec.msgpack.encode(fed(Monitor(risk=RISK, alpha=ALPHA), losses[:150]))
    assert fed(msgspec.msgpack.decode(saved, type=Monitor), losses[150:]) == fed(
        Monitor(risk=RISK, alpha=ALPHA), losses
    )


def test_an_alarm_stays_whatever_comes_after_it() -> None:
    alarmed = fed(Monitor(risk=RISK, alpha=ALPHA), np.ones(5))
    later = fed(alarmed, np.zeros(10_000))
    assert later.alarmed
    assert later.alarmed_at == alarmed.alarmed_at
    assert (later.audits, later.errors) == (10_005, 5)
    assert resumed(later, Monitor(risk=0.2, alpha=ALPHA)) is later


def test_evidence_against_another_risk_is_not_carried_over() -> None:
    saved = fed(Monitor(risk=RISK, alpha=ALPHA), np.zeros(10))
    assert resumed(saved, Monitor(risk=RISK, alpha=ALPHA)) is saved
    assert resumed(saved, Monitor(risk=0.1, alpha=ALPHA)).audits == 0


def test_a_thousand_errors_in_a_row_overflow_nothing() -> None:
    assert math.isfinite(fed(Monitor(risk=1e-3, alpha=ALPHA), np.ones(1_000)).statistic)


def test_a_promise_about_the_truth_allows_for_the_large_models_own_errors() -> None:
    certified = factory.with_certificate(draft()).certificate
    assert certified is not None
    assert tolerated_risk(replace(certified, label_source="large_model"), 0.03) == 0.05
    assert tolerated_risk(replace(certified, label_source="ground_truth"), 0.03) == pytest.approx(0.08)


def draft() -> Manifest:
    return Manifest(
        task="colours",
        version="1",
        labels=["red", "green"],
        inputs=factory.model_inputs(),
        outputs=Outputs(),
        files=[factory.file_entry("model.onnx", b"", "model")],
        variants=[Variant(name="fp32", file="model.onnx", precision="fp32")],
        calibration=Calibration(temperature=1.0),
        acceptance=Acceptance(threshold=0.8),
    )


# Certificates from audits


def test_at_exactly_the_target_risk_audits_certify_falsely_at_most_delta_of_the_time() -> None:
    delta, runs = 0.05, 2_000
    losses = (np.random.default_rng(1).random((runs, 3_000)) < RISK).astype(float)
    false = (log_capitals(losses, RISK).max(1) >= math.log(1 / delta)).mean()
    assert false <= delta + 2 * math.sqrt(delta * (1 - delta) / runs)
    # The control: to look after every audit, at the empirical rate, and stop when it pleases, breaks its promise.
    counts = np.arange(1, 3_001)
    looked = (losses.cumsum(1) / counts <= RISK)[:, 59:].any(1).mean()
    assert looked > 0.5


def test_with_two_thresholds_a_false_certificate_of_either_is_as_rare() -> None:
    delta, runs, false = 0.1, 400, 0
    rng = np.random.default_rng(2)
    for _ in range(runs):
        scores, losses = rng.random(800), rng.random(800) < RISK
        found = certify_from_audits(scores, losses, [0.5, 0.2], risk=RISK, delta=delta)
        false += found.threshold is not None
    assert false / runs <= delta + 2 * math.sqrt(delta * (1 - delta) / runs)


def test_a_risk_of_two_percent_certifies_five_after_some_two_hundred_audits() -> None:
    losses = (np.random.default_rng(3).random((500, 1_500)) < 0.02).astype(float)
    reached = log_capitals(losses, RISK) >= math.log(20)
    assert reached.any(1).mean() > 0.99
    assert 120 < np.median(reached.argmax(1) + 1) < 260


def test_the_loosest_certified_threshold_is_kept_and_the_way_there_is_told() -> None:
    rng = np.random.default_rng(4)
    scores = rng.random(4_000)
    losses = rng.random(4_000) < np.where(scores > 0.6, 0.01, 0.3)
    few = certify_from_audits(scores[:150], losses[:150], [0.9, 0.6, 0.1], risk=RISK, delta=0.05)
    assert few.threshold is None
    have, _, needed = few.progress.partition(" of ")
    assert 0 < int(have) < int(needed) < 600
    many = certify_from_audits(scores, losses, [0.9, 0.6, 0.1], risk=RISK, delta=0.05)
    assert many.threshold == 0.6
    assert [tried.certified for tried in many.tried] == [True, True, False]
    assert many.tried[2].expected is None


def test_what_support_refuses_is_no_evidence_for_a_threshold() -> None:
    found = certify_from_audits([0.9, -math.inf, math.nan], [0, 1, 1], [0.5], risk=RISK, delta=0.05)
    assert (found.nearest.audits, found.nearest.errors, found.n) == (1, 0, 3)


def test_without_audits_the_way_is_told_and_without_thresholds_there_is_none() -> None:
    assert certify_from_audits([], [], [0.5], risk=RISK, delta=0.05).progress.startswith("0 of ")
    with pytest.raises(RuleRefusalError):
        certify_from_audits([], [], [], risk=RISK, delta=0.05)
