"""One row of the table of reason codes. Knows no code."""

from typing import Literal, NamedTuple

Stage = Literal["asked", "part", "stays", "link", "blob", "letter", "busy", "later", "ended", "ignored", "trust"]
By = Literal["device", "cloud", "broker"]
Acts = Literal["application", "operator of the device", "operator of the cloud", "nobody"]


class Reason(NamedTuple):
    """What one code says."""

    code: str
    stage: Stage
    """The part of the way on which it is met."""
    by: tuple[By, ...]
    """Who says it."""
    acts: Acts
    """Who must do something about it."""
    means: str
    do: str
