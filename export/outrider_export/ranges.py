"""Ranges of a model's activations on real inputs, by the three usual rules. Quantizes nothing."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from outrider_export.recipes import Ranges

Feeds = Mapping[str, NDArray[Any]]
_ENTROPY_BINS = 512
"""ONNX Runtime's own default is 128, as many as there are levels: it then has one threshold to choose from, the largest value."""


class _Reader:
    """What a calibrator asks for feeds."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def find_ranges(prepared: Path, feeds: Sequence[Feeds], ranges: Ranges, *, operators: Sequence[str]) -> Any:
    """What `onnxruntime.quantization.qdq_quantizer.QDQQuantizer` takes as ranges; the same feeds give the same.

    Args:
        prepared: an ONNX file whose shapes are inferred.
        feeds: the real inputs, in batches.
        ranges: the least and largest values; entropy, as https://docs.nvidia.com/deeplearning/tensorrt describes it; or percentile.
        operators: whose tensors.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    methods = {
        "min-max": (CalibrationMethod.MinMax, {}),
        "entropy": (CalibrationMethod.Entropy, {"num_bins": _ENTROPY_BINS, "num_quantized_bins": 128}),
        "percentile": (CalibrationMethod.Percentile, {"symmetric": False}),
    }
    method, options = methods[ranges]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        calibrator = create_calibrator(
            prepared,
            list(operators),
            augmented_model_path=str(prepared.with_name(f"{ranges}.onnx")),
            calibrate_method=method,
            extra_options=options,
        )
        if ranges == "min-max":
            calibrator.collect_data(_Reader(feeds))
        else:
            for each in feeds:  # one by one: a histogram calibrator keeps every tensor of what it collects at once
                calibrator.collect_data(_Reader([each]))
        return calibrator.compute_data()
