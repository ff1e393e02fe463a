"""The release that an update takes the place of, and what of it the update may keep: its support distance, and its variants' choices.

A device that holds the parent is sent what differs. What is chosen anew without need, a matrix fitted again or a scale found again,
differs everywhere and says nothing new. Nothing here promises anything: the update's certificate is of the update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from outrider_export.checkpoint import checkpoint_path, load_known
from outrider_export.data import Tensors
from outrider_export.networks import Pools
from outrider_export.promises import FALSE_ALARMS
from outrider_export.support import Known, farthest, pooled_features
from outrider_wire.manifest import Manifest

LEAST_CORRELATION = 0.99
"""Of a row's distances before and after: what an fp32 file must keep of its module's (`outrider_export.recipes.RECIPES`)."""
MOST_DRIFT = 0.05
"""Most that the distance which `FALSE_ALARMS` of the rows exceed may have grown or shrunk, as a share."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A deployed release."""

    module: nn.Module
    known: Sequence[Known] = ()
    """What its support distance is taken from; empty where its checkpoint does not tell."""
    files: Mapping[str, bytes]
    """Variant → ONNX."""


def parent_of(bundle: Path, manifest: Manifest, module: nn.Module) -> Parent:
    """The parent at ``bundle``, whose checkpoint lies beside it."""
    files = {each.name: (bundle / each.file).read_bytes() for each in manifest.variants}
    return Parent(module=module, known=load_known(checkpoint_path(bundle)), files=files)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Whether the parent's support distance still holds for a module that was trained on from it."""

    correlation: float
    """Of the distances of the same rows, of the parent's features and of the module's."""
    drift: float
    """Largest of these distances but for `FALSE_ALARMS` of the rows: after over before, less one."""

    @property
    def holds(self) -> bool:
        """Whether it may be kept."""
        return self.correlation >= LEAST_CORRELATION and abs(self.drift) <= MOST_DRIFT

    @property
    def says(self) -> str:
        """For the bundle's provenance."""
        kept = "kept from the parent" if self.holds else "fitted anew"
        return f"{kept}: distances before and after go together by {self.correlation:.4f}, their scale moved by {self.drift:+.2%}"


def still_known(parent: Parent, module: nn.Module, rows: Tensors) -> Held | None:
    """Compares the parent's distances of ``rows`` with what its Gaussians say of the module's features; None: nothing to compare."""
    if not parent.known or not isinstance(module, Pools) or not isinstance(parent.module, Pools):
        return None
    views = [pooled_features(each, rows) for each in (parent.module.eval(), module)]
    if [each.gaussian.mean.shape for each in parent.known] != [(each.shape[1],) for each in views[1]]:
        return None
    before, after = (farthest(parent.known, each) for each in views)
    return Held(correlation=_correlation(before, after), drift=_reach(after) / _reach(before) - 1)


def _reach(distances: NDArray[np.float64]) -> float:
    return max(float(np.quantile(distances, 1 - FALSE_ALARMS)), 1e-9)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if np.array_equal(a, b):
        return 1.0
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0
