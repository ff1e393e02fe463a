"""A task: one product question, written as TOML. Knows what a valid task is, not how it is answered."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from outrider_wire.errors import OperatorConfigError
from outrider_wire.limits import IMAGE_PIXELS, PARTS
from outrider_wire.messages import Modality
from outrider_wire.names import Label, Name
from outrider_wire.privacy import FirstForm, Privacy, faults
from outrider_wire.settings import parse_toml
from outrider_wire.strata import OTHER, Stratum

Rate = Annotated[float, Meta(ge=0.0, le=1.0)]
OpenRate = Annotated[float, Meta(gt=0.0, lt=1.0)]

FACTS_PART = "facts"
"""Part that a large model's bundle may read beside the task's own: the answers to the sub-tasks, made in the cloud."""


class InputPart(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One part that every input of the task has."""

    name: Name
    modality: Modality
    max_bytes: Annotated[int, Meta(ge=1, le=32 * 1024 * 1024)] = 4 * 1024 * 1024
    max_pixels: Annotated[int, Meta(ge=1, le=100_000_000)] = IMAGE_PIXELS
    """Images only; judged from the header, before a pixel is decoded."""
    first: FirstForm | None = None
    """Images only: what is sent of it at first; None: all of it at once."""


class AnswerSpace(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What an answer can be."""

    labels: Annotated[list[Label], Meta(min_length=2, max_length=4096)]
    kind: Literal["classes"] = "classes"


class Subtask(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A smaller question about the same input, which the device may answer itself and send along as a fact."""

    name: Name
    labels: Annotated[list[Label], Meta(min_length=2, max_length=256)]


class Prompt(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the large model is told, when it reads language."""

    text: Annotated[str, Meta(max_length=16_384)] = ""


class Policy(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is promised, and what may be spent to keep the promise."""

    target_risk: OpenRate = 0.05
    """r*: the largest tolerated error rate of what is answered under a certificate."""
    confidence: OpenRate = 0.95
    """1 − δ: how sure the certificate is of it."""
    answer_within_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 2_000
    """How long the application waits for a final answer, unless it says otherwise."""
    keep_for_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 86_400
    """How long an escalation is worth having, answered in time or not."""
    audit_rate: Rate = 0.02
    """ε: the share of accepted inputs that is sent to the large model as well, to watch the promise."""
    durability: Literal["disk", "memory"] = "disk"
    """``memory`` gives up the outbox's survival of a restart for speed; audits survive it all the same."""
    mode: Literal["live", "shadow"] = "live"
    """``shadow``: the device answers everything itself, and records what it would have sent."""
    shadow_audits: bool = False
    """In shadow mode, a random ``audit_rate`` of *all* inputs is sent: what a first certificate can be made of."""
    on_alarm: Literal["escalate", "stricter"] = "escalate"
    """Once the audits say that the promise is broken: everything is sent, or what a stricter threshold keeps is answered
    here, uncertified. Until a new certificate comes."""
    audits_between_false_alarms: Annotated[int, Meta(ge=20, le=1_000_000)] = 1_000
    """On average, at least, while the promise holds. More means later alarms when it does not."""
    large_error: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.05
    """A bound on the large model's own error: how far its answers may differ from a device that keeps a promise about the
    truth. A certificate that names one wins."""
    target_gap: OpenRate | None = None
    """ε: how much more often than the large model alone the system may be wrong, certified together with ``target_risk``.
    None: that is not asked."""


Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Money = Annotated[float, Meta(ge=0.0, le=1e9)]


class Budget(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What escalations may cost. It never widens what is accepted: it chooses which of the refused inputs are sent.

    None: no limit. An hour and a day are the last hour and day at every moment, in run time.
    """

    escalations_per_hour: Count | None = None
    escalations_per_day: Count | None = None
    bytes_per_hour: Count | None = None
    """What escalations put on the wire: payload and envelope."""
    bytes_per_day: Count | None = None
    money_per_hour: Money | None = None
    """In whatever unit ``price_per_escalation`` has."""
    money_per_day: Money | None = None
    price_per_escalation: Money = 0.0
    """What one is assumed to cost."""
    when_spent: Literal["drop", "keep"] = "drop"
    """What becomes of an input that is not sent: ``keep`` holds it in the outbox, and sends it to be learnt from when there is
    budget to spare. Nobody waits for it."""

    def __post_init__(self) -> None:
        """Refuses a limit of money that nothing would ever reach."""
        if not self.price_per_escalation and (self.money_per_hour is not None or self.money_per_day is not None):
            raise ValueError("a budget of money needs price_per_escalation, what one escalation is assumed to cost")


class Memory(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The answer memory: what the large model said of an input is said again of one that is nearly the same.

    Needs a model that exports an embedding. Its answers are never certified; some of them are audited.
    """

    enabled: bool = False
    max_distance: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.01
    """Cosine distance of the embeddings at which two inputs still count as the same; all other parts must be equal."""
    max_entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    keep_for_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 86_400
    audit_rate: Rate = 0.05
    """Share of its answers of which the large model is asked all the same."""
    risk: OpenRate = 0.1
    """The largest tolerated share of audited answers with which the large model disagrees: shown to be above it, the memory
    switches itself off until the model changes."""


class Task(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One product question: its parts, its answers, its policy."""

    name: Name
    inputs: Annotated[list[InputPart], Meta(min_length=1, max_length=PARTS)]
    answer: AnswerSpace
    schema: Literal[1] = 1
    subtasks: Annotated[list[Subtask], Meta(max_length=PARTS)] = []
    description: Annotated[str, Meta(max_length=2048)] = ""
    prompt: Prompt = Prompt()
    policy: Policy = Policy()
    privacy: Privacy = Privacy()
    strata: Annotated[list[Stratum], Meta(max_length=16)] = []
    """Kinds of input that are known before the answer; each is certified apart, and what none matches besides."""
    budget: Budget = Budget()
    memory: Memory = Memory()

    @property
    def labels(self) -> list[str]:
        """The answer space, in the order that every distribution uses."""
        return self.answer.labels

    @property
    def delta(self) -> float:
        """δ: the tolerated probability that the certificate is wrong."""
        return round(1.0 - self.policy.confidence, 12)

    def part(self, name: str) -> InputPart | None:
        """The input part of that name."""
        return next((part for part in self.inputs if part.name == name), None)


def parse_task(text: str, source: str = "task.toml") -> Task:
    """A task from TOML text.

    Raises:
        OperatorConfigError: with file, line, the offending key and the nearest known one.
    """
    task = parse_toml(text, Task, source)
    named = [
        ("input", [part.name for part in task.inputs]),
        ("label", task.labels),
        ("stratum", [*(stratum.name for stratum in task.strata), OTHER]),
    ]
    named += [("sub-task", [each.name for each in task.subtasks])]
    named += [(f"label of sub-task {each.name!r},", each.labels) for each in task.subtasks]
    for what, names in named:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OperatorConfigError(
                f"{source}: {what} {twice[0]!r} stands twice",
                reason="duplicate_name",
                fix="give each a name of its own",
            )
    texts = [part.name for part in task.inputs if part.modality == "text"]
    if foreign := [stratum for stratum in task.strata if stratum.part not in texts]:
        raise OperatorConfigError(
            f"{source}: stratum {foreign[0].name!r} looks at {foreign[0].part!r}, which is no text part of this task",
            reason="unknown_part",
            fix=f"name one of: {', '.join(texts)}" if texts else "strata need a text part",
        )
    if problem := next(faults(task.privacy, task.inputs), ""):
        raise OperatorConfigError(
            f"{source}: {problem}", reason="privacy_unfit", fix="correct it; see docs/privacy.md for what can be said"
        )
    if task.budget.when_spent == "keep" and not task.privacy.keep_examples:
        raise OperatorConfigError(
            f'{source}: budget.when_spent = "keep" keeps inputs to learn from, and privacy.keep_examples forbids that',
            reason="contradiction",
            fix='set budget.when_spent = "drop", or privacy.keep_examples = true',
        )
    if task.subtasks and task.part(FACTS_PART):
        raise OperatorConfigError(
            f"{source}: input {FACTS_PART!r} is what a large model reads the answers to the sub-tasks from",
            reason="reserved_name",
            fix="give the input another name",
        )
    return task
