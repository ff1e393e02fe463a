"""A large model's temperature by how much of the input it was given, and how sure of that is enough: a thumbnail makes it
over-confident. Pure."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from outrider_wire.calibration import softmax
from outrider_wire.messages import Part

_LEAST = 1e-9
"""Smallest probability before logarithms."""
ENOUGH = 0.95
"""How sure the large model must be of a first form for which no grade says otherwise."""


class Grade(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Inputs of which one part is like this get that temperature. Without conditions: every input."""

    temperature: Annotated[float, Meta(gt=0.0, le=100.0)]
    """Above 1: less sure than the large model says."""
    part: Annotated[str, Meta(max_length=64)] = ""
    """Empty: any part."""
    media_type: Annotated[str, Meta(max_length=128)] = ""
    """Empty: any."""
    max_bytes: Annotated[int, Meta(ge=1)] | None = None
    enough: Annotated[float, Meta(gt=0.0, le=1.0)] = ENOUGH
    """Of a first form: the confidence, after the temperature, at which the full one is not asked for."""

    def fits(self, part: Part) -> bool:
        """Whether that part is of this grade."""
        return (
            self.part in ("", part.name)
            and self.media_type in ("", part.media_type)
            and (self.max_bytes is None or part.size <= self.max_bytes)
        )


def grade_of(parts: Sequence[Part], grades: Sequence[Grade]) -> Grade | None:
    """The first grade that a part fits; None where none does."""
    return next((grade for grade in grades if any(grade.fits(part) for part in parts)), None)


def temperature_of(parts: Sequence[Part], grades: Sequence[Grade]) -> float:
    """The temperature of the first grade that a part fits; 1 where none does."""
    grade = grade_of(parts, grades)
    return 1.0 if grade is None else grade.temperature


def tempered(probabilities: Sequence[float], temperature: float) -> list[float]:
    """A distribution made softer (temperature > 1) or sharper; a label that was ruled out stays so."""
    if temperature == 1.0:
        return list(probabilities)
    given = np.asarray(probabilities, np.float64)
    made = np.where(given > 0, softmax(np.log(np.maximum(given, _LEAST)), temperature), 0.0)
    return [float(p) for p in made / made.sum()]
