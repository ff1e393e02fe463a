"""A starting task file, with every setting explained beside it. Writes text; knows no model and no file."""

import json
from collections.abc import Sequence
from enum import StrEnum

from outrider_wire.leaving import words
from outrider_wire.task import Budget, Memory, Task, parse_task


class Kind(StrEnum):
    """Which parts an input of the task has."""

    IMAGE = "image"
    IMAGE_TEXT = "image-text"
    TEXT = "text"


_PARTS: dict[str, str] = {
    "image": """\
[[inputs]]
name = "image"
modality = "image"         # PNG or JPEG; also: text, audio, series
max_bytes = 4194304        # larger ones are refused before they are decoded
max_pixels = 4000000       # judged from the header
# [inputs.first]           # send less at first; all of it only if the large model is not sure enough of that
# as = "jpeg"              # or thumbnail (side = 16), crop (box = [0.2, 0.2, 0.8, 0.8])
# quality = 50
""",
    "text": """\
[[inputs]]
name = "question"
modality = "text"
max_bytes = 4096
""",
}
_HEAD = """\
# A task: one product question, what an answer can be, and what is promised of it.
# Check it with: outrider task check {source}

schema = 1
name = {name}              # a-z, 0-9 and -: it becomes part of MQTT topics and paths
description = ""
"""

_REST = """\

[answer]
kind = "classes"
labels = [                  # in this order everywhere; a model is made for exactly these
{labels}
]

# Smaller questions about the same input, which a device may answer and send along as facts (strategy "transfer"):
# [[subtasks]]
# name = "colour"
# labels = ["red", "green"]

[prompt]
text = ""                   # what a large model that reads language is told

[policy]
target_risk = 0.05          # r*: at most this share of what the device keeps may be wrong …
confidence = 0.95           # … and the certificate is this sure of it
answer_within_ms = 2000     # how long the application waits for a final answer, unless it says otherwise
keep_for_s = 86400          # how long an escalation is worth having, late or not
audit_rate = 0.02           # share of kept inputs that is sent as well, to watch the promise
durability = "disk"         # memory: faster, and escalations do not survive a restart
mode = "live"               # shadow: answer locally, and record what would be escalated
shadow_audits = false       # in shadow mode, send audit_rate of all inputs: what a first certificate is made of
on_alarm = "escalate"       # when audits break the promise; stricter: keep what a stricter threshold keeps, uncertified
audits_between_false_alarms = 1000  # on average, at least, while the promise holds
large_error = 0.05          # bound on the large model's own error, for a certificate about the truth that names none
# target_gap = 0.02         # ε: the system may be wrong at most so much more often than the large model; certified with target_risk

[privacy]
escalate = true             # false: nothing leaves the device; what it is unsure of says so
keep_examples = true        # false: the cloud answers and forgets
# redact = ["email", "phone", "number"]  # taken out of text before it leaves; metadata of pictures and sounds always is
# [privacy.patterns]        # more to take out: an expression, by the name that then stands in its place
# plate = "[A-Z]{{1,3}}-[0-9]{{1,4}}"
# [privacy.parts.image]     # what becomes of that part before it leaves
# crop = [0.0, 0.2, 1.0, 1.0]            # left, top, right, bottom, as shares of width and height
# blur = 0.05               # radius, as a share of the longer side …
# blur_boxes = [[0.0, 0.0, 0.3, 0.3]]    # … in these boxes; none: all over
# embedding_only = true     # only what the device's model makes of it; the cloud needs a large model that reads that

[budget]                    # no limit but those that are set; it chooses which refused inputs are sent, never what is kept
# escalations_per_hour = 60
# escalations_per_day = 500 # spread over the day, given to the inputs that the device is likeliest to have wrong
# bytes_per_hour = 2000000
# bytes_per_day = 20000000  # payload and envelope
# money_per_hour = 0.5
# money_per_day = 5.0       # needs the price of one escalation, in the same unit
# price_per_escalation = 0.002
when_spent = "drop"         # keep: hold what is not sent in the outbox, to be learnt from when there is budget to spare

[memory]                    # the large model's answers again, for inputs that are nearly the same; never certified
enabled = false             # needs a bundle that exports an embedding: outrider export run --embedding
max_distance = 0.01         # cosine distance of two images that count as the same; every other part must be equal
max_entries = 10000         # the oldest answer makes room
keep_for_s = 86400          # how long an answer may be given again
audit_rate = 0.05           # share of its answers of which the large model is asked all the same …
risk = 0.1                  # … and if it disagrees with more than this share, the memory switches itself off
"""


_STRATA = """
# Kinds of question that are known before the answer: each is certified apart, and what none matches besides.
# [[strata]]
# name = "colour"
# part = "question"
# any_of = ["what color", "which color"]   # whole words, any case; the first stratum that matches counts
"""


def task_text(*, name: str, labels: Sequence[str], kind: Kind = Kind.IMAGE, source: str = "task.toml") -> str:
    """The TOML of a starting task: valid, commented, with default policy.

    Raises:
        OperatorConfigError: the name or a label is not one.
    """
    inputs = "\n".join(["", *(_PARTS[part] for part in kind.split("-"))])
    listed = "\n".join(f"  {_quoted(label)}," for label in labels)
    strata = _STRATA if kind is not Kind.IMAGE else ""
    text = _HEAD.format(source=source, name=_quoted(name)) + inputs + _REST.format(labels=listed) + strata
    parse_task(text, source)
    return text


def summary(task: Task) -> list[tuple[str, str]]:
    """What a task says, as (name, value), with what its promise costs in labelled rows."""
    from outrider_wire.certificate import items_needed

    policy, risk = task.policy, task.policy.target_risk
    needed = [items_needed(risk, task.delta, errors) for errors in (0, 5)]
    return [
        ("inputs", ", ".join(f"{part.name} ({part.modality}, ≤ {part.max_bytes} B)" for part in task.inputs)),
        ("labels", f"{len(task.labels)}: {', '.join(task.labels[:12])}{' …' if len(task.labels) > 12 else ''}"),
        *[("sub-task", f"{each.name}: {', '.join(each.labels)}") for each in task.subtasks],
        ("promise", f"at most {risk:.1%} of what is kept is wrong, with confidence {policy.confidence:.0%}"),
        (
            "rows to certify that",
            f"at least {needed[0]} kept certification rows without an error, {needed[1]} with 5",
        ),
        ("final answer within", f"{policy.answer_within_ms} ms"),
        ("audits", f"{policy.audit_rate:.1%} of what is kept"),
        (
            "mode",
            f"{policy.mode}, durable in {'memory only' if policy.durability == 'memory' else 'the outbox on disk'}",
        ),
        *[("leaves the device" if not place else "", what) for place, what in enumerate(words(task))],
        ("budget", _budget(task.budget)),
        ("memory", _memory(task.memory)),
    ]


def _budget(budget: Budget) -> str:
    limits = [
        f"{getattr(budget, f'{what}_per_{window}'):,} {what} {'an hour' if window == 'hour' else 'a day'}"
        for what in ("escalations", "bytes", "money")
        for window in ("hour", "day")
        if getattr(budget, f"{what}_per_{window}") is not None
    ]
    if not limits:
        return "no limit"
    kept = "kept to be learnt from" if budget.when_spent == "keep" else "dropped"
    return f"at most {', '.join(limits)}; what is not sent is answered here, uncertified, and {kept}"


def _memory(memory: Memory) -> str:
    if not memory.enabled:
        return "off"
    return (
        f"{memory.max_entries} answers within a distance of {memory.max_distance:g} for {memory.keep_for_s} s, "
        f"{memory.audit_rate:.1%} audited, off when over {memory.risk:.0%} disagree"
    )


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's, except DEL, which JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
