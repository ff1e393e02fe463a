"""What an application is told about its input, and the account that always adds up. Pure values and arithmetic."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from outrider_wire.messages import Milliseconds

State = Literal["pending", "edge", "cloud", "memory", "expired", "refused"]
TERMINAL: tuple[State, ...] = ("edge", "cloud", "memory", "expired", "refused")
"""Every input ends in exactly one of these, set once."""
ATTRIBUTES = ("audited", "late", "uncertified")
"""What may be true of an input besides; these never enter the sum."""


class AnswerReport(Struct, kw_only=True, frozen=True):
    """One answer, as the local API gives it."""

    id: str
    task: str
    state: State
    label: str | None
    """None only when the input was refused."""
    confidence: float
    """The largest calibrated probability."""
    score: float = 0.0
    """What the threshold is held against."""
    scored_by: str = "max_probability"
    """The rule's score, by the names of `outrider_wire.scores`."""
    threshold: float | None
    """The threshold in force; None: nothing like this is certified, all of it escalates."""
    stratum: str = ""
    """The kind of input that it was certified as; '' where the task has none."""
    answered_by: Literal["edge", "cloud", "memory", "nobody"]
    final: bool
    """False: the local answer, while the large model is being asked."""
    certified: bool
    """Whether the answer was given under the certificate: accepted by the whole rule on the device."""
    audited: bool = False
    late: bool = False
    """The large model's answer came after ``answer_within_ms``."""
    why: str
    """``accepted``, ``low_confidence``, ``unsupported``, ``no_certificate``, ``requested``, ``alarm``; the way it was decided."""
    note: str = ""
    """What else a person should know: ``the broker is unreachable``, ``expired before the cloud answered``."""
    model: str
    """Version of the bundle that answered on the device."""
    model_digest: str
    large_model: str = ""
    strategy: str = ""
    form: str = ""
    """On which form the large model decided, where a first one was sent: as `outrider_wire.messages.Answer.form`."""
    certificate: str = ""
    """Id of the certificate in force; '' without one."""
    probabilities: dict[str, float] = {}
    ms: Milliseconds = {}
    """Milliseconds a stage: ``prepare``, ``model``, ``gate``, ``cloud``, ``total``."""


class Account(Struct, kw_only=True, frozen=True):
    """Counts of inputs. ``received`` is counted on arrival, each terminal state when it is set: the sum is a check, not a definition."""

    received: int = 0
    pending: int = 0
    edge: int = 0
    cloud: int = 0
    memory: int = 0
    expired: int = 0
    refused: int = 0
    audited: int = 0
    late: int = 0
    uncertified: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether every input received is in exactly one state."""
        return self.received == self.pending + self.edge + self.cloud + self.memory + self.expired + self.refused


def account_from(counts: Mapping[str, int]) -> Account:
    """An account from a table of counts; unknown names are left out."""
    return Account(**{name: counts[name] for name in Account.__struct_fields__ if name in counts})
