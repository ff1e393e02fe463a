"""What is written down in a simulation: what callers were told, what the large model was paid for. Plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from outrider_wire.report import AnswerReport


class Bill(Struct, frozen=True):
    """One call of the large model that was answered."""

    number: int
    """Of the input."""
    at_s: float
    """Monotonic."""


@dataclass
class Asked:
    """What one caller knows of its input."""

    number: int
    device: str
    id: str = ""
    """'': the call ended without a report, and whether the input was accepted is in doubt."""
    told: list[tuple[str, str | None]] = field(default_factory=list)
    """(state, label), each time that it changed."""

    @property
    def state(self) -> str:
        """As it was last told."""
        return self.told[-1][0] if self.told else ""

    @property
    def accepted(self) -> bool:
        """The caller was told that the large model is being asked."""
        return bool(self.told) and self.told[0][0] not in ("edge", "memory", "refused")

    def hear(self, report: AnswerReport) -> None:
        """Notes a report, if it says something new."""
        if not self.told or self.told[-1] != (report.state, report.label):
            self.told.append((report.state, report.label))


def question(number: int) -> str:
    """The text part of an input, by which the large model knows it again."""
    return f"sim input {number}: what color is the shape?"


def right_answer(number: int, labels: Sequence[str]) -> str:
    """What the large model says of that input."""
    return labels[number % len(labels)]
