"""The last answers given here for good, for look-ups by id. Knows no disk: they are gone with the process."""

from collections import OrderedDict
from collections.abc import Callable

from outrider_wire.report import AnswerReport

MAX_NUMBERS = 20_000
"""Probabilities held in all: 1,500 reports of 13 labels, or 5 of 4,096."""


class Recent:
    """Reports by id, the oldest forgotten first."""

    def __init__(self) -> None:
        self._reports: OrderedDict[str, AnswerReport] = OrderedDict()
        self._numbers = 0
        self._listeners: list[Callable[[AnswerReport], None]] = []

    def listen(self, on_answer: Callable[[AnswerReport], None]) -> None:
        """Names whom else to tell of each, at once; must be cheap, and must not raise."""
        self._listeners.append(on_answer)

    def add(self, report: AnswerReport) -> None:
        """Keeps one; an id comes once."""
        self._reports[report.id] = report
        self._numbers += len(report.probabilities)
        while self._numbers > MAX_NUMBERS:
            _, oldest = self._reports.popitem(last=False)
            self._numbers -= len(oldest.probabilities)
        for on_answer in self._listeners:
            on_answer(report)

    def get(self, input_id: str) -> AnswerReport | None:
        """The report of that id, while it is kept."""
        return self._reports.get(input_id)
