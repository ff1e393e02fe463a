"""``bench ota`` compares real bytes of every way, and applies each delta in a process of its own."""

import msgspec
import numpy as np
import pytest
from delta_pairs import model_of, some_weights

from outrider.bench.ota import Case, Found, _case, _synthetic, line_of
from outrider.bench.ota_pairs import Pair
from outrider_wire.errors import UndecidedError

KEYS = {"full_zstd", "patch_from", "bsdiff4", "outrider", "make_s", "apply_mb_s", "rss_mb"}


def small(share: float) -> Pair:
    before = some_weights(1)
    after = {name: array * np.float32(1 + share) for name, array in before.items()}
    return Pair(change="small", precision="fp32", before=model_of(before), after=model_of(after))


def test_a_case_has_every_figure_and_the_delta_is_the_smallest() -> None:
    pair = small(1e-4)
    case = _case(pair, others=True)
    assert set(msgspec.to_builtins(case)) >= KEYS
    assert case.outrider < 0.8 * case.best_other < case.size == len(pair.after)
    assert case.apply_mb_s > 0 and case.rss_mb > 5
    assert set(line_of(Found({pair.name: case}, {}))) == {"small fp32", "worth"}


def test_a_delta_that_does_not_rebuild_its_target_ends_the_bench() -> None:
    from outrider.bench import ota

    other = small(0.5)
    with pytest.raises(UndecidedError, match="not rebuilt"):
        ota._applied(small(1e-4), ota.make_delta(other.before, other.after))


@pytest.mark.slow
def test_the_synthetic_models_are_rebuilt_fast_and_in_little_memory() -> None:
    cases: dict[str, Case] = {pair.name: _case(pair, others=False) for pair in _synthetic(32)}
    assert set(cases) == {"synthetic fp32", "synthetic adapter fp32", "synthetic int8"}
    assert max(case.added_mb for case in cases.values()) < 24
