"""A learning round as a record: every figure that decided it, for the store, for ``--json`` and for a person. Decides nothing."""

from typing import Literal

from msgspec import Struct

from outrider_cloud.learning.contest import System
from outrider_cloud.learning.lessons import Counts
from outrider_cloud.learning.promotion import Check
from outrider_cloud.learning.teacher import Confidence
from outrider_wire.manifest import Certificate


class Contest(Struct, kw_only=True, frozen=True):
    """Both systems on the gate rows."""

    before: System
    after: System
    large_accuracy: float
    before_ms: float
    """Median of one inference of the deployed model; both measured side by side."""
    after_ms: float
    agreement: float
    """Of the candidate's first variant with fp32, on tuning rows."""
    classes: dict[str, tuple[float, float]]
    """True label → accuracy of the system's answers before and after."""


class Spent(Struct, kw_only=True, frozen=True):
    """The certification rows that the round used up."""

    rows: int
    use: int
    """k: the k-th time that any of them certifies."""
    delta: float
    """δ that this use paid."""
    fresh: int
    """Rows in the store that no certificate had used."""


class RoundReport(Struct, kw_only=True, frozen=True):
    """One round."""

    round: int
    task: str
    state: Literal["promoted", "refused"]
    verdict: str
    """One sentence."""
    seed: int
    targets: Literal["soft", "hard"]
    update: Literal["full", "adapters"] = "full"
    """What of the student learnt: every layer, or the adapters alone, after which a device is sent a few per cent of the file."""
    deployed: str
    """Digest of the base bundle."""
    counts: Counts
    confidence: Confidence
    checks: list[Check]
    seconds: dict[str, float]
    candidate: str | None = None
    """Digest of the candidate as it would ship; None where no student was trained."""
    bundle: str = ""
    """Where it is; empty when refused."""
    contest: Contest | None = None
    """None where no student was trained."""
    deferral: str = ""
    """What came of learning when to ask the large model; empty where it was not asked for."""
    spent: Spent | None = None
    certificate: Certificate | None = None
    sentences: list[str] = []
    """What the certificate says, or why there is none."""

    def table(self) -> list[tuple[str, str, str]]:
        """(figure, deployed, candidate) for a person; nothing where no student was trained."""
        if self.contest is None:
            return []
        before, after = self.contest.before, self.contest.after
        return [
            ("right alone", _percent(before.small_accuracy), _percent(after.small_accuracy)),
            ("kept on the device", _percent(before.coverage), _percent(after.coverage)),
            ("of these wrong", _percent(before.risk), _percent(after.risk)),
            ("right as a system", _percent(before.accuracy), _percent(after.accuracy)),
            ("large-model calls", _percent(1 - before.coverage), _percent(1 - after.coverage)),
            ("median inference", f"{self.contest.before_ms:.3f} ms", f"{self.contest.after_ms:.3f} ms"),
        ]


def _percent(share: float) -> str:
    return f"{share:.1%}"
