"""Which variants a person wants of an export. Loads neither torch nor onnx."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider_export.front import Objective
from outrider_export.recipes import find_recipes, recipes_of
from outrider_wire.manifest import Precision
from outrider_wire.profile import Profile

USUAL = ("int8", "fp32")
"""What is exported when nothing is asked for."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one export is to make."""

    variants: Sequence[str] = ()
    """By name, the one that ships first in front; none: the usual ones, or those that the profile runs."""
    objective: Objective | None = None
    """What one of them is picked for, which then ships alone; None: all of them ship."""
    forced: Sequence[str] = ()
    """Those that may be out of their tolerance."""
    profile: Profile | None = None

    @property
    def names(self) -> list[str]:
        """What is made.

        Raises:
            OperatorConfigError: a variant is unknown, or named twice.
        """
        named = list(self.variants) or self._unnamed()
        return [each.name for each in find_recipes([*named, *(name for name in self.forced if name not in named)])]

    def _unnamed(self) -> list[str]:
        precisions = self.profile.runtime.precisions if self.profile else []
        if self.objective:
            return recipes_of(precisions)
        return (
            [_row_of(precision, self.profile) for precision in precisions] if self.profile and precisions else [*USUAL]
        )


def _row_of(precision: Precision, profile: Profile) -> str:
    """The recipe for that precision there: ARM and TensorRT want their 8 bits symmetric."""
    signed = profile.hardware.arch == "aarch64" or any("tensorrt" in name.lower() for name in profile.runtime.providers)
    return "int8-symmetric" if precision == "int8" and signed else precision
