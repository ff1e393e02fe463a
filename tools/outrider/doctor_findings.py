"""What the doctor looks at, and what it says of it. Looks at nothing itself."""

from typing import Any, Literal

from msgspec import Struct

Level = Literal["ok", "warning", "bad"]
MARKS: dict[Level, str] = {"ok": "✓", "warning": "‼", "bad": "✗"}


class Finding(Struct, kw_only=True):
    """One thing that was looked at."""

    check: str
    level: Level
    what: str
    fix: str = ""

    @property
    def line(self) -> str:
        """For a person."""
        return f"{MARKS[self.level]} {self.check}: {self.what}" + (f"; {self.fix}" if self.fix else "")


class Subject(Struct, kw_only=True):
    """What is looked at: this machine, and the configurations that were found."""

    edge: Any = None
    """An `outrider_edge.config.EdgeConfig`, or None."""
    cloud: Any = None
    """An `outrider_cloud.config.CloudConfig`, or None."""
    faults: list[Finding] = []
    """Configurations that could not be read."""
    production: bool = False
    """Whether it is to be fit for more than a laboratory."""
