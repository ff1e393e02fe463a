"""Whether an exported model computes what its module does, at the very shapes that it will run at. Knows no checkpoint.

An exporter that traces one run can write that run's lengths into the graph; what was traced at other shapes is seen here.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from outrider_engine.session import OrtSession
from outrider_wire.errors import BundleMismatchError

_ROWS = 3
_TOLERANCE = 1e-3
"""Largest difference of an output, as a share of its largest value."""


def check_same(module: nn.Module, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], vocabulary: int) -> None:
    """Compares the first output of both on a few made-up inputs.

    Raises:
        BundleMismatchError: they differ.
    """
    session = OrtSession(model.SerializeToString())
    draw = np.random.default_rng(0)
    feeds = {fact.name: _made(fact.name, fact.dtype, shapes[fact.name], vocabulary, draw) for fact in session.inputs}
    try:
        with torch.inference_mode():
            expected = module(**{name: torch.from_numpy(values) for name, values in feeds.items()})[0].numpy()
    except (ValueError, RuntimeError, IndexError) as error:
        raise BundleMismatchError(
            f"what the checkpoint's processor makes does not fit its model: {str(error).strip().splitlines()[0][:200]}",
            reason="processor_mismatch",
            fix="correct the sizes in preprocessor_config.json, or say #tokens= or #seconds= that the model takes",
        ) from error
    found = session.run(feeds)[session.outputs[0].name]
    same_shape = found.shape == expected.shape
    apart = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)) if same_shape else np.inf
    if not apart <= _TOLERANCE:
        raise BundleMismatchError(
            f"the exported model is {apart:.2g} of its largest value from the checkpoint",
            reason="export_mismatch",
            fix="another version of optimum or transformers may export it; or export it to ONNX yourself",
        )


def _made(
    name: str, dtype: str, shape: Sequence[int], vocabulary: int, draw: np.random.Generator
) -> NDArray[np.float32] | NDArray[np.int64]:
    """Noise; of text, tokens of which the last row ends half-way."""
    size = (_ROWS, *shape)
    if dtype != "int64":
        return draw.normal(size=size).astype(np.float32)
    if name == "attention_mask":
        mask = np.ones(size, np.int64)
        mask[-1, shape[0] // 2 + 1 :] = 0
        return mask
    return draw.integers(0, vocabulary, size) if name == "input_ids" else np.zeros(size, np.int64)
