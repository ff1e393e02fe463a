"""Ranges of a model's activations on real inputs, by the three usual rules. Quantizes nothing."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outrider_export.recipes import Ranges

Feeds = Mapping[str, NDArray[Any]]
_ENTROPY_BINS = 512
"""ONNX Runtime's own default is 128, as many as there are levels: it then has one threshold to choose from, the largest value."""
_WILD = 1e6
"""A mask of a transformer is the least float32, −3.4e38: 8 bits over such a range leave nothing of the rest."""
_FLAT = 1e-4
"""A range below this share of its largest value is too narrow for a histogram of float32."""


class Found(NamedTuple):
    """Ranges of a model's tensors."""

    ranges: Any
    """What `onnxruntime.quantization.qdq_quantizer.QDQQuantizer` takes."""
    wild: frozenset[str]
    """Tensors without a range, because it is of no use: not finite, or beyond a million."""


class _Reader:
    """What a calibrator asks for feeds."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def find_ranges(prepared: Path, feeds: Sequence[Feeds], rule: Ranges, *, operators: Sequence[str]) -> Found:
    """The range of every tensor; the same feeds give the same.

    Args:
        prepared: an ONNX file whose shapes are inferred.
        feeds: the real inputs, in batches.
        rule: the least and largest values; entropy (Migacz 2017, GTC session S7310); or a percentile, 99.999 %.
        operators: whose tensors.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorsData

    whole = _calibrated(prepared, feeds, "min-max", operators).data
    limits = {name: tuple(np.float32(side) for side in data.range_value) for name, data in whole.items()}
    wild = frozenset(name for name, (low, high) in limits.items() if not max(abs(low), abs(high)) < _WILD)
    flat = {name for name, (low, high) in limits.items() if high - low <= _FLAT * max(abs(low), abs(high))}
    ranges = {name: (np.asarray(low), np.asarray(high)) for name, (low, high) in limits.items() if name not in wild}
    if rule != "min-max":
        narrowed = _calibrated(prepared, feeds, rule, operators, without=wild | flat).data
        ranges |= {name: tuple(map(np.asarray, data.range_value)) for name, data in narrowed.items()}
    return Found(TensorsData(CalibrationMethod.MinMax, ranges), wild)


def _calibrated(
    prepared: Path, feeds: Sequence[Feeds], rule: Ranges, operators: Sequence[str], without: Iterable[str] = ()
) -> Any:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    methods = {
        "min-max": (CalibrationMethod.MinMax, {}),
        "entropy": (CalibrationMethod.Entropy, {"num_bins": _ENTROPY_BINS, "num_quantized_bins": 128}),
        "percentile": (CalibrationMethod.Percentile, {"symmetric": False}),
    }
    method, options = methods[rule]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        calibrator = create_calibrator(
            prepared,
            list(operators),
            augmented_model_path=str(prepared.with_name(f"{rule}.onnx")),
            calibrate_method=method,
            extra_options=options,
        )
        if rule == "min-max":
            calibrator.collect_data(_Reader(feeds))
        else:
            calibrator.tensors_to_calibrate -= set(without)
            for each in feeds:  # one by one: a histogram calibrator keeps every tensor of what it collects at once
                calibrator.collect_data(_Reader([each]))
        return calibrator.compute_data()
