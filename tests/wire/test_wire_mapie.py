"""An outside oracle: MAPIE's Learn-then-Test on the same rows keeps no more at no fewer broken promises."""

import numpy as np
import pytest
from numpy.typing import NDArray

from outrider_wire.certificate import DEFAULT_COVERAGES, fixed_sequence, thresholds_at

control = pytest.importorskip(
    "mapie.risk_control", reason="MAPIE IS NOT INSTALLED: the outside oracle was not asked (pip install mapie)"
)

RISK, DELTA, DRAWS, ROWS = 0.05, 0.1, 150, 2_000


def drawn(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The row at rank u is wrong with probability 0.528 · u^3.4, so that 12 % are, and 5 % down to a coverage of 77 %."""
    ranks = rng.random(n)
    return 1 - ranks, rng.random(n) >= 0.528 * ranks**3.4


def true_risk(threshold: float) -> float:
    return 0.528 * (1 - threshold) ** 3.4 / 4.4


def mapies(scores: NDArray[np.float64], right: NDArray[np.bool_], thresholds: list[float], method: str) -> float | None:
    controller = control.BinaryClassificationController(
        predict_function=lambda x: np.column_stack((1 - np.ravel(x), np.ravel(x))),
        risk="precision",
        target_level=1 - RISK,
        confidence_level=1 - DELTA,
        list_predict_params=np.asarray(thresholds),
        fwer_method=method,
    )
    controller.calibrate(scores[:, None], right.astype(int))
    return float(min(controller.valid_predict_params)) if len(controller.valid_predict_params) else None


@pytest.mark.filterwarnings("ignore")
def test_no_less_is_kept_than_by_mapie_at_no_more_broken_promises() -> None:
    rng = np.random.default_rng(0)
    kept: dict[str, list[float]] = {"ours": [], "fixed_sequence": [], "bonferroni_holm": []}
    broken = dict.fromkeys(kept, 0)
    for _ in range(DRAWS):
        thresholds = thresholds_at(drawn(rng, 300)[0])
        scores, right = drawn(rng, ROWS)
        found = {
            "ours": fixed_sequence(scores, right, thresholds, RISK, DELTA, coverages=DEFAULT_COVERAGES).threshold,
            **{method: mapies(scores, right, thresholds, method) for method in ("fixed_sequence", "bonferroni_holm")},
        }
        for method, threshold in found.items():
            kept[method].append(0.0 if threshold is None else float((scores >= threshold).mean()))
            broken[method] += threshold is not None and true_risk(threshold) > RISK
    print({method: (float(np.mean(kept[method])), broken[method] / DRAWS) for method in kept})
    assert np.mean(kept["ours"]) >= np.mean(kept["fixed_sequence"])
    assert broken["ours"] <= broken["fixed_sequence"]
    assert np.mean(kept["ours"]) > np.mean(kept["bonferroni_holm"]) + 0.015
    assert broken["ours"] / DRAWS <= DELTA
