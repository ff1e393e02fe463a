"""The variants that a model can be exported as, one row each, and how far each may be from fp32. Knows no model; loads no torch."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import Precision, Variant

Ranges = Literal["dynamic", "min-max", "entropy", "percentile"]
"""How an activation's range is found: at every run, or once, on real inputs."""


class Tolerance(Struct, kw_only=True, frozen=True):
    """How far a variant may be from fp32 on tuning rows before it does not ship."""

    agreement: float
    """Least share of the answers that stay."""
    mean_share: float
    """Most that the mean difference of a logit may be, as a share of the largest logit."""
    support: float
    """Least correlation of the support distances, where the model has one: what it refuses as foreign must stay refused."""

    def fault(self, figures: Mapping[str, float]) -> str:
        """What of `outrider_export.parity.parity`'s figures is out of tolerance; '' when nothing is."""
        faults = []
        if not figures["agreement"] >= self.agreement:
            faults.append(
                f"{figures['agreement']:.2%} of its answers are fp32's, and {self.agreement:.1%} is asked for"
            )
        if not figures["mean_share"] <= self.mean_share:
            faults.append(
                f"its logits are {figures['mean_share']:.2%} of the largest away on average, and {self.mean_share:.1%} is allowed"
            )
        if not figures.get("support_correlation", 1.0) >= self.support:
            faults.append(
                f"its support distance goes with fp32's by {figures['support_correlation']:.3f}, and {self.support:g} is asked for"
            )
        return "; ".join(faults)


class Scheme(Struct, kw_only=True, frozen=True):
    """How a model becomes 8-bit. Weights are always symmetric, with a range for each output channel."""

    ranges: Ranges
    reduced: bool = True
    """Weights use 7 of their 8 bits: x86 without VNNI saturates sums of products otherwise, and a certificate should not hold on one
    processor and fail on the next
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8)."""
    symmetric: bool = False
    """Activations are signed with a zero point of 0 and biases stay in floating point: what TensorRT takes, and what ARM runs best."""


class Recipe(Struct, kw_only=True, frozen=True):
    """One row."""

    name: str
    precision: Precision
    about: str
    tolerance: Tolerance
    scheme: Scheme | None = None
    """Of an 8-bit one."""


_INT8 = Tolerance(agreement=0.98, mean_share=0.05, support=0.9)
_STATIC = "8-bit weights (a range a channel, 7 bits used) and activations"

RECIPES: Mapping[str, Recipe] = {
    each.name: each
    for each in (
        Recipe(
            name="fp32",
            precision="fp32",
            about="32-bit floating point: the model as it was exported",
            tolerance=Tolerance(agreement=0.999, mean_share=1e-3, support=0.99),
        ),
        Recipe(
            name="fp16",
            precision="fp16",
            about="16-bit floating point, inputs and outputs in 32: for GPUs; a processor without such kernels casts around every step",
            tolerance=Tolerance(agreement=0.995, mean_share=1e-2, support=0.99),
        ),
        Recipe(
            name="int8",
            precision="int8",
            about=f"{_STATIC}, ranges from the least to the largest value of real inputs: for processors",
            tolerance=_INT8,
            scheme=Scheme(ranges="min-max"),
        ),
        Recipe(
            name="int8-entropy",
            precision="int8",
            about=f"{_STATIC}, ranges that lose least information on real inputs (Kullback–Leibler): for processors",
            tolerance=_INT8,
            scheme=Scheme(ranges="entropy"),
        ),
        Recipe(
            name="int8-percentile",
            precision="int8",
            about=f"{_STATIC}, ranges that hold all but the farthest values of real inputs (99.999 %): for processors",
            tolerance=_INT8,
            scheme=Scheme(ranges="percentile"),
        ),
        Recipe(
            name="int8-symmetric",
            precision="int8",
            about="8-bit weights (a range a channel, all 8 bits) and signed activations without zero points, ranges from the least to "
            "the largest value of real inputs, biases in floating point: for TensorRT and ARM",
            tolerance=_INT8,
            scheme=Scheme(ranges="min-max", reduced=False, symmetric=True),
        ),
        Recipe(
            name="int8-dynamic",
            precision="int8",
            about="8-bit weights (a range a channel, 7 bits used), ranges of activations found at every run: for transformers; needs no "
            "calibration, and slows convolutions",
            tolerance=_INT8,
            scheme=Scheme(ranges="dynamic"),
        ),
    )
}
"""Name → recipe. A bundle's variants bear these names."""


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        OperatorConfigError: there is none; says which there are.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.6)
    raise OperatorConfigError(
        f"there is no variant {name!r}",
        reason="unknown_precision",
        fix=(f"did you mean {near[0]}? " if near else "") + f"choose among {', '.join(RECIPES)}",
    )


def find_recipes(names: Sequence[str]) -> list[Recipe]:
    """The recipes of these names, in this order.

    Raises:
        OperatorConfigError: one of them is unknown, there is none, or one is named twice.
    """
    found = [find_recipe(name) for name in names]
    if not found or len(set(names)) < len(names):
        raise OperatorConfigError(
            f"{','.join(names)!r} names no variant, or one twice",
            reason="unknown_precision",
            fix=f"choose among {', '.join(RECIPES)}",
        )
    return found


def recipes_like(variants: Sequence[Variant]) -> list[str]:
    """Names of the recipes that would make these variants again; of one that no recipe made, the one that is called like its precision."""
    names = (each.name if each.name in RECIPES else each.precision for each in variants)
    return list(dict.fromkeys(names))


def recipes_of(precisions: Sequence[Precision]) -> list[str]:
    """Names of all recipes of these precisions, a profile's, in their order; of all where it names none."""
    wanted = list(precisions) or list(dict.fromkeys(recipe.precision for recipe in RECIPES.values()))
    return [name for precision in wanted for name, recipe in RECIPES.items() if recipe.precision == precision]
