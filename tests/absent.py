"""What a machine lacks, so that a test cannot run on it: the test is skipped, and the run's last lines say what was not tested."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

import pytest

_MARK = "not on this machine: "


def skip_without(what: str, fix: str) -> NoReturn:
    """Skips the running test for want of ``what``; ``fix`` says how to get it."""
    pytest.skip(f"{_MARK}{what} ({fix})")


def lines_of(skipped: Iterable[Any]) -> list[str]:
    """One line for each thing that was wanting, of pytest's skip reports."""
    wanting = Counter(
        report.longrepr[2].partition(_MARK)[2]
        for report in skipped
        if isinstance(report.longrepr, tuple) and _MARK in report.longrepr[2]
    )
    return [f"NOT TESTED: {count} tests, for want of {what}" for what, count in wanting.items()]
